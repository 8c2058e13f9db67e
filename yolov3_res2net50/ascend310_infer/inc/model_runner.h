// Shared file: source utils/cpp_infer/inc/model_runner.h; copy with: python scripts/sync_model_utils.py --write
// A model in MindSpore Lite.
#ifndef CPP_INFER_INC_MODEL_RUNNER_H_
#define CPP_INFER_INC_MODEL_RUNNER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "include/api/model.h"

namespace infer {

enum class DeviceTarget { kAscend, kCpu };

// A model with one input (batch_size, 3, height, width) float32 and outputs (batch_size, ...) float32 or float16. Every
// function throws Error with what MindSpore Lite reports, or with what the model has instead.
class ModelRunner {
 public:
  // Loads and compiles a MINDIR file.
  ModelRunner(const std::string &path, DeviceTarget target, uint32_t device_id);

  size_t batch_size() const { return batch_size_; }
  int64_t height() const { return height_; }
  int64_t width() const { return width_; }
  size_t input_size() const { return batch_size_ * image_size(); }
  size_t image_size() const { return 3 * static_cast<size_t>(height_) * static_cast<size_t>(width_); }
  double milliseconds() const { return milliseconds_; }  // of all calls together
  size_t calls() const { return calls_; }

  // Runs a batch, batch_size x 3 x height x width numbers. Returns the outputs, one after the other, each with the
  // numbers of the whole batch.
  std::vector<std::vector<float>> Predict(const std::vector<float> &images);

 private:
  void ReadInputShape(const std::string &path);

  mindspore::Model model_;
  std::vector<mindspore::MSTensor> inputs_;
  size_t batch_size_ = 0;
  int64_t height_ = 0;
  int64_t width_ = 0;
  double milliseconds_ = 0.0;
  size_t calls_ = 0;
};

}  // namespace infer

#endif  // CPP_INFER_INC_MODEL_RUNNER_H_
