// Stand-in for a header of MindSpore Lite: the part of its public interface that the application uses. Tests only.
#ifndef STAND_IN_INCLUDE_API_STATUS_H_
#define STAND_IN_INCLUDE_API_STATUS_H_

#include <cstdint>
#include <string>

namespace mindspore {

enum StatusCode : uint32_t { kSuccess = 0, kLiteError = 0xffffffffU, kLiteFileError = 0xfffffff6U };

class Status {
 public:
  Status() = default;
  Status(enum StatusCode status_code, const std::string &status_msg = "") : code_(status_code), message_(status_msg) {}

  enum StatusCode StatusCode() const { return code_; }
  std::string ToString() const { return message_; }
  bool operator==(enum StatusCode other_code) const { return code_ == other_code; }
  bool operator!=(enum StatusCode other_code) const { return code_ != other_code; }
  bool IsOk() const { return code_ == kSuccess; }
  bool IsError() const { return code_ != kSuccess; }

 private:
  enum StatusCode code_ = kSuccess;
  std::string message_;
};

}  // namespace mindspore

#endif  // STAND_IN_INCLUDE_API_STATUS_H_
