// Shared file: source utils/cpp_infer/inc/preprocess.h; copy with: python scripts/sync_model_utils.py --write
// From a picture to the input of the network.
#ifndef CPP_INFER_INC_PREPROCESS_H_
#define CPP_INFER_INC_PREPROCESS_H_

#include <array>

#include "inc/image.h"
#include "inc/resample.h"

namespace infer {

enum class ResizeMode {
  kShorterSide,  // the shorter side to height / crop_ratio, then the centre
  kBothSides,    // to height x width, without regard to the aspect ratio
  kLetterbox     // as large as it fits into height x width, in the middle of a grey picture
};

// What the network is fed; export.py writes it beside a model. Mean and std are on the scale 0-1.
struct InputDescription {
  int height = 0;
  int width = 0;
  ResizeMode resize = ResizeMode::kShorterSide;
  double crop_ratio = 1.0;
  Interpolation interpolation = Interpolation::kBilinear;
  std::array<double, kChannels> mean = {0.0, 0.0, 0.0};
  std::array<double, kChannels> std = {1.0, 1.0, 1.0};
};

// The resized and cropped picture of the described size. Throws Error where a picture cannot be resized.
Image FitImage(const Image &image, const InputDescription &description);

// Normalized, channel by channel: writes 3 x height x width numbers.
void Normalize(const Image &image, const InputDescription &description, float *target);

}  // namespace infer

#endif  // CPP_INFER_INC_PREPROCESS_H_
