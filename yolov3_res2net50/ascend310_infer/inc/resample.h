// Shared file: source utils/cpp_infer/inc/resample.h; copy with: python scripts/sync_model_utils.py --write
// Resizing of pictures, with the same arithmetic as the evaluation pipeline.
#ifndef CPP_INFER_INC_RESAMPLE_H_
#define CPP_INFER_INC_RESAMPLE_H_

#include "inc/image.h"

namespace infer {

enum class Interpolation { kNearest, kBilinear, kBicubic };

// Nearest and bilinear look at one or four pixels, however much a picture shrinks, as OpenCV does (INTER_NEAREST and
// INTER_LINEAR). Bicubic averages over all pixels below its kernel, as Pillow does. Sides are 1 or more.
Image Resize(const Image &image, int width, int height, Interpolation interpolation);

}  // namespace infer

#endif  // CPP_INFER_INC_RESAMPLE_H_
