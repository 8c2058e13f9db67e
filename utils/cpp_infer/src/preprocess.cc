// Shared file: source utils/cpp_infer/src/preprocess.cc; copy with: python scripts/sync_model_utils.py --write
#include "inc/preprocess.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "inc/error.h"

namespace infer {
namespace {

constexpr uint8_t kGrey = 128;
// Of a picture of 1 x 50,000 pixels the resized one would fill the memory.
constexpr int64_t kMaxPixels = int64_t{1} << 28;

Image CheckedResize(const Image &image, int64_t width, int64_t height, Interpolation interpolation) {
  constexpr int64_t kMaxSide = std::numeric_limits<int>::max() / kChannels;
  if (width < 1 || height < 1 || width > kMaxSide || height > kMaxSide || width * height > kMaxPixels) {
    throw Error("of " + std::to_string(image.width) + " x " + std::to_string(image.height) +
                " pixels, cannot be resized to " + std::to_string(width) + " x " + std::to_string(height));
  }
  return Resize(image, static_cast<int>(width), static_cast<int>(height), interpolation);
}

// Half of a margin; that of an odd one is rounded to the even number, as in torchvision and timm.
int HalfMargin(int margin) {
  const int half = margin / 2;
  return margin % 2 == 1 && half % 2 == 1 ? half + 1 : half;
}

Image CropCenter(const Image &image, int width, int height) {
  const int left = HalfMargin(image.width - width);
  const int top = HalfMargin(image.height - height);
  Image result(width, height);
  for (int y = 0; y < height; ++y) {
    std::memcpy(result.Row(y), image.Row(top + y) + static_cast<size_t>(left) * kChannels, result.RowBytes());
  }
  return result;
}

Image FitShorterSide(const Image &image, const InputDescription &description) {
  const int64_t side = static_cast<int64_t>(description.height / description.crop_ratio);
  const bool is_wide = image.width > image.height;
  // The longer side is rounded down.
  const int64_t width = is_wide ? side * image.width / image.height : side;
  const int64_t height = is_wide ? side : side * image.height / image.width;
  return CropCenter(CheckedResize(image, width, height, description.interpolation), description.width,
                    description.height);
}

Image FitLetterbox(const Image &image, const InputDescription &description) {
  const double scale = std::min(static_cast<double>(description.height) / image.height,
                                static_cast<double>(description.width) / image.width);
  const int64_t width = std::max<int64_t>(1, std::llrint(image.width * scale));
  const int64_t height = std::max<int64_t>(1, std::llrint(image.height * scale));
  const Image inner = CheckedResize(image, width, height, description.interpolation);
  Image result(description.width, description.height, kGrey);
  const int left = (result.width - inner.width) / 2;
  const int top = (result.height - inner.height) / 2;
  for (int y = 0; y < inner.height; ++y) {
    std::memcpy(result.Row(top + y) + static_cast<size_t>(left) * kChannels, inner.Row(y), inner.RowBytes());
  }
  return result;
}

}  // namespace

Image FitImage(const Image &image, const InputDescription &description) {
  switch (description.resize) {
    case ResizeMode::kShorterSide:
      return FitShorterSide(image, description);
    case ResizeMode::kLetterbox:
      return FitLetterbox(image, description);
    default:
      return CheckedResize(image, description.width, description.height, description.interpolation);
  }
}

void Normalize(const Image &image, const InputDescription &description, float *target) {
  constexpr double kScale = 255.0;
  const size_t size = static_cast<size_t>(image.width) * static_cast<size_t>(image.height);
  for (size_t c = 0; c < kChannels; ++c) {
    const float mean = static_cast<float>(kScale * description.mean[c]);
    const float std = static_cast<float>(kScale * description.std[c]);
    const uint8_t *source = image.pixels.data() + c;
    for (size_t i = 0; i < size; ++i, source += kChannels) {
      *target++ = (static_cast<float>(*source) - mean) / std;
    }
  }
}

}  // namespace infer
