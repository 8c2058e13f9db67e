// Stand-in for a header of MindSpore Lite: the part of its public interface that the application uses. Tests only.
#ifndef STAND_IN_INCLUDE_API_TYPES_H_
#define STAND_IN_INCLUDE_API_TYPES_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "include/api/data_type.h"

namespace mindspore {

enum ModelType : uint32_t { kMindIR = 0, kMindIR_Lite = 4 };

class MSTensor {
 public:
  class Impl;
  MSTensor();
  explicit MSTensor(const std::shared_ptr<Impl> &impl);
  ~MSTensor();

  enum DataType DataType() const;
  const std::vector<int64_t> &Shape() const;
  int64_t ElementNum() const;
  std::shared_ptr<const void> Data() const;
  void *MutableData();
  size_t DataSize() const;

 private:
  std::shared_ptr<Impl> impl_;
};

}  // namespace mindspore

#endif  // STAND_IN_INCLUDE_API_TYPES_H_
