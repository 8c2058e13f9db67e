// Stand-in for a header of MindSpore Lite: the part of its public interface that the application uses. Tests only.
#ifndef STAND_IN_INCLUDE_API_CONTEXT_H_
#define STAND_IN_INCLUDE_API_CONTEXT_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "include/api/types.h"

namespace mindspore {

enum DeviceType { kCPU = 0, kGPU, kKirinNPU, kAscend };

class DeviceInfoContext : public std::enable_shared_from_this<DeviceInfoContext> {
 public:
  DeviceInfoContext() = default;
  virtual ~DeviceInfoContext() = default;
  virtual enum DeviceType GetDeviceType() const = 0;
};

class CPUDeviceInfo : public DeviceInfoContext {
 public:
  enum DeviceType GetDeviceType() const override { return DeviceType::kCPU; }
};

class AscendDeviceInfo : public DeviceInfoContext {
 public:
  enum DeviceType GetDeviceType() const override { return DeviceType::kAscend; }
  void SetDeviceID(uint32_t device_id) { device_id_ = device_id; }
  uint32_t GetDeviceID() const { return device_id_; }

 private:
  uint32_t device_id_ = 0;
};

class Context {
 public:
  Context() = default;
  std::vector<std::shared_ptr<DeviceInfoContext>> &MutableDeviceInfo() { return devices_; }

 private:
  std::vector<std::shared_ptr<DeviceInfoContext>> devices_;
};

}  // namespace mindspore

#endif  // STAND_IN_INCLUDE_API_CONTEXT_H_
