// Shared file: source utils/cpp_infer/src/image_io.cc; copy with: python scripts/sync_model_utils.py --write
#include "inc/image_io.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>

#include "inc/error.h"

namespace infer {
namespace {

std::vector<uint8_t> ReadFile(const std::filesystem::path &path) {
  std::error_code error;
  if (std::filesystem::exists(path, error) && !std::filesystem::is_regular_file(path, error)) {
    throw Error("not a regular file");  // opening a named pipe waits for ever
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    throw Error(std::strerror(errno));
  }
  std::vector<uint8_t> content((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (file.bad()) {
    throw Error("cannot be read to its end");
  }
  return content;
}

bool StartsWith(const std::vector<uint8_t> &content, const std::string &magic) {
  return content.size() >= magic.size() && std::memcmp(content.data(), magic.data(), magic.size()) == 0;
}

bool IsJpeg(const std::vector<uint8_t> &content) { return StartsWith(content, "\xff\xd8\xff"); }

// The formats that the evaluation pipeline reads; the image library may know more of them.
bool IsKnownFormat(const std::vector<uint8_t> &content) {
  return IsJpeg(content) || StartsWith(content, "\x89PNG\r\n\x1a\n") || StartsWith(content, "BM") ||
         StartsWith(content, std::string("II*\0", 4)) || StartsWith(content, std::string("MM\0*", 4));
}

// Whether the end marker of a JPEG file is there. Some decoders paint the missing part of a truncated file grey and
// report success. The marker may stand in an embedded preview as well, so the segments are walked, not searched.
bool HasJpegEnd(const std::vector<uint8_t> &content) {
  const size_t size = content.size();
  size_t position = 2;
  while (position + 1 < size) {
    const uint8_t marker = content[position + 1];
    const bool is_marker = content[position] == 0xff && marker != 0x00 && marker != 0xff;
    const bool is_alone = marker == 0x01 || (marker >= 0xd0 && marker <= 0xd7);
    if (!is_marker) {  // data of a scan, or a fill byte
      ++position;
    } else if (marker == 0xd9) {
      return true;
    } else if (is_alone) {
      position += 2;
    } else if (position + 3 < size) {
      position += 2 + (static_cast<size_t>(content[position + 2]) << 8) + content[position + 3];
    } else {
      return false;
    }
  }
  return false;
}

}  // namespace

Image ReadImage(const std::filesystem::path &path) {
  const std::vector<uint8_t> content = ReadFile(path);
  if (content.empty()) {
    throw Error("empty file");
  }
  if (!IsKnownFormat(content)) {
    throw Error("not a JPEG, PNG, BMP or TIFF file");
  }
  if (IsJpeg(content) && !HasJpegEnd(content)) {
    throw Error("truncated JPEG file");
  }
  Image image;
  if (!DecodeImage(content, &image) || image.width <= 0 || image.height <= 0) {
    throw Error("cannot be decoded");
  }
  return image;
}

}  // namespace infer
