// Shared file: source utils/cpp_infer/inc/options.h; copy with: python scripts/sync_model_utils.py --write
// The command line.
#ifndef CPP_INFER_INC_OPTIONS_H_
#define CPP_INFER_INC_OPTIONS_H_

#include <cstdint>
#include <string>

#include "inc/error.h"
#include "inc/model_runner.h"
#include "inc/preprocess.h"

namespace infer {

struct Options {
  std::string mindir_path;
  std::string dataset_path;
  std::string output_dir = ".";
  DeviceTarget device_target = DeviceTarget::kAscend;
  uint32_t device_id = 0;
  InputDescription input;
  bool wants_help = false;
};

class UsageError : public Error {
 public:
  using Error::Error;
};

extern const char kUsage[];

// Throws UsageError for an unknown option, a missing one, or a value that cannot be.
Options ParseOptions(int argc, const char *const *argv);

}  // namespace infer

#endif  // CPP_INFER_INC_OPTIONS_H_
