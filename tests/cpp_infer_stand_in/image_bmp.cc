// Stand-in for image_opencv.cc where OpenCV's C++ files are not installed: decodes BMP files of 24 bits, which Pillow
// writes. Tests only.
#include "inc/image_io.h"

namespace infer {
namespace {

uint32_t Read32(const std::vector<uint8_t> &content, size_t position) {
  return content[position] | content[position + 1] << 8 | content[position + 2] << 16 |
         static_cast<uint32_t>(content[position + 3]) << 24;
}

}  // namespace

bool DecodeImage(const std::vector<uint8_t> &content, Image *image) {
  constexpr size_t kHeader = 54;
  if (content.size() < kHeader || content[0] != 'B' || content[1] != 'M' || content[28] != 24) {
    return false;
  }
  const size_t start = Read32(content, 10);
  const int width = static_cast<int>(Read32(content, 18));
  const int height = static_cast<int>(Read32(content, 22));
  if (width <= 0 || height <= 0 || width > 1 << 20 || height > 1 << 20) {
    return false;
  }
  const size_t row_bytes = (static_cast<size_t>(width) * kChannels + 3) / 4 * 4;
  if (content.size() < start + row_bytes * static_cast<size_t>(height)) {
    return false;
  }
  *image = Image(width, height);
  for (int y = 0; y < height; ++y) {
    const uint8_t *source = content.data() + start + row_bytes * static_cast<size_t>(height - 1 - y);
    uint8_t *target = image->Row(y);
    for (int x = 0; x < width; ++x, source += kChannels, target += kChannels) {
      target[0] = source[2];
      target[1] = source[1];
      target[2] = source[0];
    }
  }
  return true;
}

}  // namespace infer
