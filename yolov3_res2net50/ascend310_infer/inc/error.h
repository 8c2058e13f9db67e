// Shared file: source utils/cpp_infer/inc/error.h; copy with: python scripts/sync_model_utils.py --write
// What ends a run, or the treatment of one picture, with a sentence for the user.
#ifndef CPP_INFER_INC_ERROR_H_
#define CPP_INFER_INC_ERROR_H_

#include <stdexcept>
#include <string>

namespace infer {

class Error : public std::runtime_error {
 public:
  explicit Error(const std::string &message) : std::runtime_error(message) {}
};

}  // namespace infer

#endif  // CPP_INFER_INC_ERROR_H_
