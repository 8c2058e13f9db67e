// Stand-in for a header of MindSpore Lite: the part of its public interface that the application uses. Tests only.
#ifndef STAND_IN_INCLUDE_API_DATA_TYPE_H_
#define STAND_IN_INCLUDE_API_DATA_TYPE_H_

namespace mindspore {
enum class DataType : int { kTypeUnknown = 0, kNumberTypeUInt8 = 37, kNumberTypeFloat16 = 42, kNumberTypeFloat32 = 43 };
}  // namespace mindspore

#endif  // STAND_IN_INCLUDE_API_DATA_TYPE_H_
