// Shared file: source utils/cpp_infer/src/resample.cc; copy with: python scripts/sync_model_utils.py --write
#include "inc/resample.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace infer {
namespace {

// ---- Nearest --------------------------------------------------------------------------------------------------------

Image ResizeNearest(const Image &image, int width, int height) {
  // The factor is rounded twice, as in OpenCV: where it falls on a border between pixels, that decides.
  const double scale_x = 1.0 / (static_cast<double>(width) / image.width);
  const double scale_y = 1.0 / (static_cast<double>(height) / image.height);
  Image result(width, height);
  for (int y = 0; y < height; ++y) {
    const uint8_t *source = image.Row(std::min(static_cast<int>(std::floor(y * scale_y)), image.height - 1));
    uint8_t *target = result.Row(y);
    for (int x = 0; x < width; ++x, target += kChannels) {
      const int from = std::min(static_cast<int>(std::floor(x * scale_x)), image.width - 1);
      std::memcpy(target, source + static_cast<size_t>(from) * kChannels, kChannels);
    }
  }
  return result;
}

// ---- Bilinear, in fixed point ---------------------------------------------------------------------------------------

constexpr int kWeightOne = 1 << 11;

// The two neighbours of an output position, and their weights, which sum up to kWeightOne.
struct Neighbours {
  int first = 0;
  int second = 0;
  int first_weight = kWeightOne;
  int second_weight = 0;
};

std::vector<Neighbours> FindNeighbours(int from, int to) {
  const double scale = 1.0 / (static_cast<double>(to) / from);
  std::vector<Neighbours> result(static_cast<size_t>(to));
  for (int i = 0; i < to; ++i) {
    const float position = static_cast<float>((i + 0.5) * scale - 0.5);
    const int left = static_cast<int>(std::floor(position));
    const float share = position - static_cast<float>(left);
    Neighbours &entry = result[static_cast<size_t>(i)];
    entry.first = std::clamp(left, 0, from - 1);
    entry.second = std::clamp(left + 1, 0, from - 1);
    entry.first_weight = static_cast<int>(std::nearbyint((1.0F - share) * kWeightOne));
    entry.second_weight = static_cast<int>(std::nearbyint(share * kWeightOne));
  }
  return result;
}

void InterpolateRow(const uint8_t *source, const std::vector<Neighbours> &columns, std::vector<int> *row) {
  int *target = row->data();
  for (const Neighbours &column : columns) {
    const uint8_t *first = source + static_cast<size_t>(column.first) * kChannels;
    const uint8_t *second = source + static_cast<size_t>(column.second) * kChannels;
    for (int c = 0; c < kChannels; ++c) {
      *target++ = first[c] * column.first_weight + second[c] * column.second_weight;
    }
  }
}

// OpenCV takes the mean of four pixels where both sides are halved exactly.
Image Halve(const Image &image) {
  Image result(image.width / 2, image.height / 2);
  for (int y = 0; y < result.height; ++y) {
    const uint8_t *upper = image.Row(2 * y);
    const uint8_t *lower = image.Row(2 * y + 1);
    uint8_t *target = result.Row(y);
    for (int x = 0; x < result.width; ++x, upper += 2 * kChannels, lower += 2 * kChannels, target += kChannels) {
      for (int c = 0; c < kChannels; ++c) {
        target[c] = static_cast<uint8_t>((upper[c] + upper[c + kChannels] + lower[c] + lower[c + kChannels] + 2) >> 2);
      }
    }
  }
  return result;
}

Image ResizeBilinear(const Image &image, int width, int height) {
  if (image.width == 2 * width && image.height == 2 * height) {
    return Halve(image);
  }
  const std::vector<Neighbours> columns = FindNeighbours(image.width, width);
  const std::vector<Neighbours> rows = FindNeighbours(image.height, height);
  Image result(width, height);
  std::vector<int> upper(result.RowBytes());
  std::vector<int> lower(result.RowBytes());
  int upper_index = -1;
  int lower_index = -1;
  for (int y = 0; y < height; ++y) {
    const Neighbours &row = rows[static_cast<size_t>(y)];
    if (row.first == lower_index) {
      std::swap(upper, lower);
      std::swap(upper_index, lower_index);
    }
    if (row.first != upper_index) {
      InterpolateRow(image.Row(row.first), columns, &upper);
      upper_index = row.first;
    }
    if (row.second != lower_index) {
      InterpolateRow(image.Row(row.second), columns, &lower);
      lower_index = row.second;
    }
    uint8_t *target = result.Row(y);
    for (size_t x = 0; x < result.RowBytes(); ++x) {
      // Two steps of rounding keep the products in 32 bits.
      const int sum = ((row.first_weight * (upper[x] >> 4)) >> 16) + ((row.second_weight * (lower[x] >> 4)) >> 16);
      target[x] = static_cast<uint8_t>((sum + 2) >> 2);
    }
  }
  return result;
}

// ---- Bicubic, in fixed point ----------------------------------------------------------------------------------------

constexpr int kCoefficientBits = 22;
constexpr double kCubicSupport = 2.0;

double Cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) {
    return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  }
  return x < kCubicSupport ? (((x - 5.0) * x + 8.0) * x - 4.0) * a : 0.0;
}

// The input positions below the kernel of an output position.
struct Window {
  int start = 0;
  std::vector<int> weights;
};

std::vector<Window> FindWindows(int from, int to) {
  const double scale = static_cast<double>(from) / to;
  const double widening = std::max(scale, 1.0);
  const double support = kCubicSupport * widening;
  std::vector<Window> result(static_cast<size_t>(to));
  std::vector<double> weights;
  for (int i = 0; i < to; ++i) {
    Window &window = result[static_cast<size_t>(i)];
    const double center = (i + 0.5) * scale;
    window.start = std::max(static_cast<int>(center - support + 0.5), 0);
    const int end = std::min(static_cast<int>(center + support + 0.5), from);
    double sum = 0.0;
    weights.clear();
    for (int x = window.start; x < end; ++x) {
      weights.push_back(Cubic((x - center + 0.5) * (1.0 / widening)));
      sum += weights.back();
    }
    for (double weight : weights) {
      const double scaled = weight / sum * (1 << kCoefficientBits);
      window.weights.push_back(static_cast<int>(scaled < 0 ? scaled - 0.5 : scaled + 0.5));
    }
  }
  return result;
}

uint8_t ToByte(int sum) { return static_cast<uint8_t>(std::clamp(sum >> kCoefficientBits, 0, 255)); }

constexpr int kHalf = 1 << (kCoefficientBits - 1);

Image ResampleRows(const Image &image, int width) {
  const std::vector<Window> windows = FindWindows(image.width, width);
  Image result(width, image.height);
  for (int y = 0; y < image.height; ++y) {
    uint8_t *target = result.Row(y);
    for (const Window &window : windows) {
      const uint8_t *source = image.Row(y) + static_cast<size_t>(window.start) * kChannels;
      int sums[kChannels] = {kHalf, kHalf, kHalf};
      for (int weight : window.weights) {
        for (int c = 0; c < kChannels; ++c) {
          sums[c] += *source++ * weight;
        }
      }
      for (int sum : sums) {
        *target++ = ToByte(sum);
      }
    }
  }
  return result;
}

Image ResampleColumns(const Image &image, int height) {
  const std::vector<Window> windows = FindWindows(image.height, height);
  Image result(image.width, height);
  std::vector<int> sums(result.RowBytes());
  for (int y = 0; y < height; ++y) {
    const Window &window = windows[static_cast<size_t>(y)];
    std::fill(sums.begin(), sums.end(), kHalf);
    for (size_t i = 0; i < window.weights.size(); ++i) {
      const uint8_t *source = image.Row(window.start + static_cast<int>(i));
      for (size_t x = 0; x < sums.size(); ++x) {
        sums[x] += source[x] * window.weights[i];
      }
    }
    std::transform(sums.begin(), sums.end(), result.Row(y), ToByte);
  }
  return result;
}

Image ResizeBicubic(const Image &image, int width, int height) {
  const Image rows = width == image.width ? image : ResampleRows(image, width);
  return height == image.height ? rows : ResampleColumns(rows, height);
}

}  // namespace

Image Resize(const Image &image, int width, int height, Interpolation interpolation) {
  if (width == image.width && height == image.height) {
    return image;
  }
  switch (interpolation) {
    case Interpolation::kNearest:
      return ResizeNearest(image, width, height);
    case Interpolation::kBilinear:
      return ResizeBilinear(image, width, height);
    default:
      return ResizeBicubic(image, width, height);
  }
}

}  // namespace infer
