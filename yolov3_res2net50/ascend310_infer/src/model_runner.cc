// Shared file: source utils/cpp_infer/src/model_runner.cc; copy with: python scripts/sync_model_utils.py --write
#include "inc/model_runner.h"

#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>

#include "inc/error.h"
#include "include/api/context.h"
#include "include/api/status.h"
#include "include/api/types.h"

namespace infer {
namespace {

void Check(const mindspore::Status &status, const std::string &what) {
  if (!status.IsOk()) {
    const std::string reason = status.ToString();
    throw Error(what + ": MindSpore Lite reports " + (reason.empty() ? "an error without a text" : reason) + " (code " +
                std::to_string(static_cast<uint32_t>(status.StatusCode())) + ")");
  }
}

std::shared_ptr<mindspore::Context> MakeContext(DeviceTarget target, uint32_t device_id) {
  auto context = std::make_shared<mindspore::Context>();
  if (target == DeviceTarget::kCpu) {
    context->MutableDeviceInfo().push_back(std::make_shared<mindspore::CPUDeviceInfo>());
  } else {
    auto device = std::make_shared<mindspore::AscendDeviceInfo>();
    device->SetDeviceID(device_id);
    context->MutableDeviceInfo().push_back(device);
  }
  return context;
}

std::string Describe(const std::vector<int64_t> &shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  }
  return text + ")";
}

float FromHalf(uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1f;
  const int fraction = bits & 0x3ff;
  float value;
  if (exponent == 0x1f) {
    value = fraction == 0 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
  } else if (exponent == 0) {
    value = std::ldexp(static_cast<float>(fraction), -24);
  } else {
    value = std::ldexp(static_cast<float>(fraction + 0x400), exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

std::vector<float> ReadOutput(const mindspore::MSTensor &tensor, size_t batch_size) {
  const std::vector<int64_t> &shape = tensor.Shape();
  if (shape.empty() || shape[0] != static_cast<int64_t>(batch_size) || tensor.ElementNum() <= 0) {
    throw Error("the model returned an output of shape " + Describe(shape) + " for a batch of " +
                std::to_string(batch_size) + " pictures");
  }
  const size_t count = static_cast<size_t>(tensor.ElementNum());
  const std::shared_ptr<const void> data = tensor.Data();
  if (data == nullptr) {
    throw Error("an output of the model cannot be read from the device");
  }
  std::vector<float> values(count);
  const mindspore::DataType type = tensor.DataType();
  if (type == mindspore::DataType::kNumberTypeFloat32 && tensor.DataSize() == count * sizeof(float)) {
    std::memcpy(values.data(), data.get(), count * sizeof(float));
  } else if (type == mindspore::DataType::kNumberTypeFloat16 && tensor.DataSize() == count * sizeof(uint16_t)) {
    const uint16_t *halves = static_cast<const uint16_t *>(data.get());
    for (size_t i = 0; i < count; ++i) {
      values[i] = FromHalf(halves[i]);
    }
  } else {
    throw Error("an output of the model holds numbers of the type " + std::to_string(static_cast<int>(type)) + " in " +
                std::to_string(tensor.DataSize()) + " bytes; float32 and float16 are read");
  }
  return values;
}

}  // namespace

ModelRunner::ModelRunner(const std::string &path, DeviceTarget target, uint32_t device_id) {
  if (!std::ifstream(path)) {
    throw Error("mindir_path=" + path + " cannot be opened");
  }
  Check(model_.Build(path, mindspore::kMindIR, MakeContext(target, device_id)),
        "mindir_path=" + path + " cannot be loaded");
  inputs_ = model_.GetInputs();
  ReadInputShape(path);
}

void ModelRunner::ReadInputShape(const std::string &path) {
  if (inputs_.size() != 1) {
    throw Error("mindir_path=" + path + " has " + std::to_string(inputs_.size()) + " inputs; one is expected");
  }
  const std::vector<int64_t> &shape = inputs_[0].Shape();
  if (shape.size() != 4 || shape[0] < 1 || shape[1] != 3 || shape[2] < 1 || shape[3] < 1) {
    throw Error("mindir_path=" + path + " has an input of shape " + Describe(shape) +
                "; (batch size, 3, height, width) with fixed sizes is expected");
  }
  batch_size_ = static_cast<size_t>(shape[0]);
  height_ = shape[2];
  width_ = shape[3];
  if (inputs_[0].DataType() != mindspore::DataType::kNumberTypeFloat32 ||
      inputs_[0].DataSize() != input_size() * sizeof(float)) {
    throw Error("mindir_path=" + path + " has an input of the type " +
                std::to_string(static_cast<int>(inputs_[0].DataType())) + " in " +
                std::to_string(inputs_[0].DataSize()) + " bytes; float32 is expected");
  }
}

std::vector<std::vector<float>> ModelRunner::Predict(const std::vector<float> &images) {
  if (images.size() != input_size()) {
    throw Error("a batch of " + std::to_string(images.size()) + " numbers does not fit the model");
  }
  void *target = inputs_[0].MutableData();
  if (target == nullptr) {
    throw Error("there is no memory for the input of the model");
  }
  std::memcpy(target, images.data(), images.size() * sizeof(float));
  std::vector<mindspore::MSTensor> outputs;
  const auto start = std::chrono::steady_clock::now();
  const mindspore::Status status = model_.Predict(inputs_, &outputs);
  const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
  Check(status, "a batch cannot be computed");
  milliseconds_ += elapsed.count();
  ++calls_;
  if (outputs.empty()) {
    throw Error("the model returned no output");
  }
  std::vector<std::vector<float>> values;
  for (const mindspore::MSTensor &output : outputs) {
    values.push_back(ReadOutput(output, batch_size_));
  }
  return values;
}

}  // namespace infer
