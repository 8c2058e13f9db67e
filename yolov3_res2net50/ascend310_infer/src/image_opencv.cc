// Shared file: source utils/cpp_infer/src/image_opencv.cc; copy with: python scripts/sync_model_utils.py --write
#include <opencv2/core.hpp>
#include <opencv2/imgcodecs.hpp>

#include "inc/image_io.h"

namespace infer {

bool DecodeImage(const std::vector<uint8_t> &content, Image *image) {
  cv::Mat decoded;
  try {
    decoded = cv::imdecode(content, cv::IMREAD_COLOR | cv::IMREAD_IGNORE_ORIENTATION);
  } catch (const cv::Exception &) {
    return false;
  }
  if (decoded.empty() || decoded.type() != CV_8UC3) {
    return false;
  }
  *image = Image(decoded.cols, decoded.rows);
  for (int y = 0; y < decoded.rows; ++y) {
    const uint8_t *source = decoded.ptr<uint8_t>(y);
    uint8_t *target = image->Row(y);
    for (int x = 0; x < decoded.cols; ++x, source += kChannels, target += kChannels) {
      target[0] = source[2];  // OpenCV keeps B, G, R
      target[1] = source[1];
      target[2] = source[0];
    }
  }
  return true;
}

}  // namespace infer
