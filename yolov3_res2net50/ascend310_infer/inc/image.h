// Shared file: source utils/cpp_infer/inc/image.h; copy with: python scripts/sync_model_utils.py --write
#ifndef CPP_INFER_INC_IMAGE_H_
#define CPP_INFER_INC_IMAGE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace infer {

constexpr int kChannels = 3;

// A picture: rows from the top, pixels from the left, bytes R, G, B.
struct Image {
  Image() = default;
  Image(int image_width, int image_height, uint8_t value = 0)
      : width(image_width),
        height(image_height),
        pixels(static_cast<size_t>(image_width) * static_cast<size_t>(image_height) * kChannels, value) {}

  const uint8_t *Row(int y) const { return pixels.data() + RowBytes() * static_cast<size_t>(y); }
  uint8_t *Row(int y) { return pixels.data() + RowBytes() * static_cast<size_t>(y); }
  size_t RowBytes() const { return static_cast<size_t>(width) * kChannels; }

  int width = 0;
  int height = 0;
  std::vector<uint8_t> pixels;
};

}  // namespace infer

#endif  // CPP_INFER_INC_IMAGE_H_
