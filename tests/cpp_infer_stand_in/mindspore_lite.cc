// Stand-in for libmindspore-lite.so in the tests of the C++ application. A "model" is a text file:
//
//     stand-in model
//     input 2 3 224 224        batch size, channels, height, width
//     output MODE ...          one line for each output:
//         echo                 the input itself
//         grey N               N numbers for each picture: zeros, and 1 at the place floor(N * mean of its input)
//         half N               the same in float16, and -2.5 in place of 1
//     fail predict | no data | short batch        behave like a broken device
//
// The device that Build was asked for is appended to the file that STAND_IN_DEVICES names, if that is set.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <numeric>
#include <sstream>
#include <utility>

#include "include/api/model.h"

namespace mindspore {

class MSTensor::Impl {
 public:
  Impl(enum DataType data_type, std::vector<int64_t> tensor_shape)
      : type(data_type), shape(std::move(tensor_shape)) {
    data.resize(static_cast<size_t>(std::max<int64_t>(0, Count())) * ItemSize());
  }
  int64_t Count() const { return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<int64_t>()); }
  size_t ItemSize() const { return type == DataType::kNumberTypeFloat16 ? 2 : 4; }

  enum DataType type;
  std::vector<int64_t> shape;
  std::vector<uint8_t> data;
  bool is_readable = true;
};

MSTensor::MSTensor() = default;
MSTensor::MSTensor(const std::shared_ptr<Impl> &impl) : impl_(impl) {}
MSTensor::~MSTensor() = default;
enum DataType MSTensor::DataType() const { return impl_->type; }
const std::vector<int64_t> &MSTensor::Shape() const { return impl_->shape; }
int64_t MSTensor::ElementNum() const { return impl_->Count(); }
void *MSTensor::MutableData() { return impl_->data.data(); }
size_t MSTensor::DataSize() const { return impl_->data.size(); }
std::shared_ptr<const void> MSTensor::Data() const {
  return impl_->is_readable ? std::shared_ptr<const void>(impl_, impl_->data.data()) : nullptr;
}

struct Model::Impl {
  struct Output {
    std::string mode;
    int64_t count = 0;
  };
  std::vector<MSTensor> inputs;
  std::vector<Output> outputs;
  std::string failure;
};

Model::Model() : impl_(std::make_shared<Impl>()) {}
Model::~Model() = default;

Status Model::Build(const std::string &model_path, ModelType model_type, const std::shared_ptr<Context> &context) {
  if (model_type != kMindIR || context == nullptr || context->MutableDeviceInfo().size() != 1) {
    return Status(kLiteError, "no MINDIR model or not one device");
  }
  const auto device = context->MutableDeviceInfo()[0];
  if (const char *log = std::getenv("STAND_IN_DEVICES")) {
    std::ofstream file(log, std::ios::app);
    if (device->GetDeviceType() == kAscend) {
      file << "Ascend " << std::static_pointer_cast<AscendDeviceInfo>(device)->GetDeviceID() << "\n";
    } else {
      file << "CPU\n";
    }
  }
  std::ifstream file(model_path);
  std::string line;
  if (!std::getline(file, line) || line != "stand-in model") {
    return Status(kLiteFileError, "the file is damaged");
  }
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string key;
    words >> key;
    if (key == "input") {
      std::vector<int64_t> shape;
      for (int64_t side = 0; words >> side;) {
        shape.push_back(side);
      }
      impl_->inputs.emplace_back(std::make_shared<MSTensor::Impl>(DataType::kNumberTypeFloat32, shape));
    } else if (key == "output") {
      Impl::Output output;
      words >> output.mode >> output.count;
      impl_->outputs.push_back(output);
    } else {
      impl_->failure = line;
    }
  }
  return kSuccess;
}

std::vector<MSTensor> Model::GetInputs() { return impl_->inputs; }

Status Model::Predict(const std::vector<MSTensor> &inputs, std::vector<MSTensor> *outputs, const MSKernelCallBack &,
                      const MSKernelCallBack &) {
  if (impl_->failure == "fail predict") {
    return Status(kLiteError, "the device is lost");
  }
  const std::vector<int64_t> &shape = inputs[0].Shape();
  const auto data = inputs[0].Data();
  const float *input = static_cast<const float *>(data.get());
  const int64_t batch = shape[0];
  const int64_t size = inputs[0].ElementNum() / batch;
  outputs->clear();
  for (const Impl::Output &output : impl_->outputs) {
    const bool is_half = output.mode == "half";
    std::vector<int64_t> result_shape = output.mode == "echo" ? shape : std::vector<int64_t>{batch, output.count};
    result_shape[0] -= impl_->failure == "short batch" ? 1 : 0;
    const auto type = is_half ? DataType::kNumberTypeFloat16 : DataType::kNumberTypeFloat32;
    const auto result = std::make_shared<MSTensor::Impl>(type, result_shape);
    result->is_readable = impl_->failure != "no data";
    if (output.mode == "echo") {
      std::memcpy(result->data.data(), input, result->data.size());
    } else {
      for (int64_t i = 0; i < result_shape[0]; ++i) {
        const double mean = std::accumulate(input + i * size, input + (i + 1) * size, 0.0) / static_cast<double>(size);
        const int64_t place = static_cast<int64_t>(mean * static_cast<double>(output.count));
        const int64_t index = i * output.count + std::max<int64_t>(0, std::min(place, output.count - 1));
        if (is_half) {
          reinterpret_cast<uint16_t *>(result->data.data())[index] = 0xc100;  // -2.5
        } else {
          reinterpret_cast<float *>(result->data.data())[index] = 1.0F;
        }
      }
    }
    outputs->emplace_back(result);
  }
  return kSuccess;
}

}  // namespace mindspore
