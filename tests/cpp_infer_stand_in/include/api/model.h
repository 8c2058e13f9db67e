// Stand-in for a header of MindSpore Lite: the part of its public interface that the application uses. Tests only.
#ifndef STAND_IN_INCLUDE_API_MODEL_H_
#define STAND_IN_INCLUDE_API_MODEL_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "include/api/context.h"
#include "include/api/status.h"
#include "include/api/types.h"

namespace mindspore {

struct MSCallBackParam;
using MSKernelCallBack =
  std::function<bool(const std::vector<MSTensor> &, const std::vector<MSTensor> &, const MSCallBackParam &)>;

class Model {
 public:
  Model();
  ~Model();

  Status Build(const std::string &model_path, ModelType model_type,
               const std::shared_ptr<Context> &model_context = nullptr);
  std::vector<MSTensor> GetInputs();
  Status Predict(const std::vector<MSTensor> &inputs, std::vector<MSTensor> *outputs,
                 const MSKernelCallBack &before = nullptr, const MSKernelCallBack &after = nullptr);

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace mindspore

#endif  // STAND_IN_INCLUDE_API_MODEL_H_
