// Shared file: source utils/cpp_infer/inc/image_io.h; copy with: python scripts/sync_model_utils.py --write
// From a picture's file to its pixels.
#ifndef CPP_INFER_INC_IMAGE_IO_H_
#define CPP_INFER_INC_IMAGE_IO_H_

#include <cstdint>
#include <filesystem>
#include <vector>

#include "inc/image.h"

namespace infer {

// Reads a JPEG, PNG, BMP or TIFF file as the evaluation pipeline does: in colour, 8 bits a channel, not rotated as its
// EXIF data may say. Throws Error with what is wrong with the file.
Image ReadImage(const std::filesystem::path &path);

// Decodes the content of such a file; false where that fails. This one function is what another image library would
// have to provide: image_opencv.cc holds it, or the file that CMake's IMAGE_SOURCE names.
bool DecodeImage(const std::vector<uint8_t> &content, Image *image);

}  // namespace infer

#endif  // CPP_INFER_INC_IMAGE_IO_H_
