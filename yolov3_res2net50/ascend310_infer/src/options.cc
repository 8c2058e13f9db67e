// Shared file: source utils/cpp_infer/src/options.cc; copy with: python scripts/sync_model_utils.py --write
#include "inc/options.h"

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <map>
#include <set>
#include <sstream>

namespace infer {

const char kUsage[] =
  R"(Usage: main --mindir_path FILE --dataset_path DIR --height N --width N --mean R,G,B --std R,G,B [OPTIONS]

Runs a MINDIR model with MindSpore Lite on every picture of a folder and its sub-folders.

  --mindir_path FILE     model with one input (batch size, 3, height, width) float32; --model_path is another name
  --dataset_path DIR     pictures: JPEG, PNG, BMP, TIFF
  --device_target NAME   Ascend or CPU; default Ascend
  --device_id N          Ascend device; default 0
  --output_dir DIR       where result_Files and time_Result are made; default the current directory
What the model is fed, as in the JSON file that export.py writes beside it:
  --height N --width N   pixels
  --mean R,G,B --std R,G,B   on the scale 0-1
  --resize NAME          shorter_side (to height / crop_ratio, then the centre), both_sides or letterbox;
                         default shorter_side
  --crop_ratio NUMBER    above 0 and up to 1; default 1
  --interpolation NAME   nearest, bilinear or bicubic; default bilinear

Written: result_Files/<picture>.bin with the float32 numbers of the model's output for one picture, or, where the model
has several outputs, <picture>_0.bin, <picture>_1.bin ...; time_Result/test_perform_static.txt.
Exit status: 0 every picture has its result, 1 a picture could not be read (the others have their results) or something
else is wrong with files or device, 2 wrong usage.
)";

namespace {

using Values = std::map<std::string, std::string>;

// --key value or --key=value; the last one counts.
Values ReadArguments(int argc, const char *const *argv) {
  static const std::set<std::string> kKeys = {"mindir_path", "dataset_path", "device_target", "device_id",
                                              "output_dir",  "height",       "width",         "mean",
                                              "std",         "resize",       "crop_ratio",    "interpolation"};
  Values values;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "-h" || argument == "--help") {
      values["help"] = "1";
      return values;
    }
    const size_t equals = argument.find('=');
    std::string key = argument.substr(0, equals);
    if (key.rfind("--", 0) != 0) {
      throw UsageError("unexpected argument " + argument);
    }
    key = key == "--model_path" ? "mindir_path" : key.substr(2);
    if (kKeys.count(key) == 0) {
      throw UsageError("unknown option --" + key);
    }
    if (equals == std::string::npos && i + 1 == argc) {
      throw UsageError("--" + key + " needs a value");
    }
    values[key] = equals == std::string::npos ? argv[++i] : argument.substr(equals + 1);
  }
  return values;
}

std::string Require(const Values &values, const std::string &key) {
  const auto found = values.find(key);
  if (found == values.end() || found->second.empty()) {
    throw UsageError("--" + key + " is missing");
  }
  return found->second;
}

std::string Get(const Values &values, const std::string &key, const std::string &otherwise) {
  return values.count(key) == 0 ? otherwise : Require(values, key);
}

template <typename T>
T Choose(const Values &values, const std::string &key, const std::string &otherwise,
         const std::map<std::string, T> &choices) {
  const std::string value = Get(values, key, otherwise);
  const auto found = choices.find(value);
  if (found == choices.end()) {
    std::string names;
    for (const auto &choice : choices) {
      names += (names.empty() ? "" : ", ") + choice.first;
    }
    throw UsageError("--" + key + " " + value + ": one of " + names + " is accepted");
  }
  return found->second;
}

double ToNumber(const std::string &key, const std::string &text) {
  char *end = nullptr;
  errno = 0;
  const double number = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || errno != 0 || !std::isfinite(number)) {
    throw UsageError("--" + key + " " + text + ": a number is accepted");
  }
  return number;
}

int ToInteger(const std::string &key, const std::string &text, int smallest) {
  constexpr double kLargest = 1 << 16;
  const double number = ToNumber(key, text);
  if (number != std::floor(number) || number < smallest || number > kLargest) {
    throw UsageError("--" + key + " " + text + ": a whole number from " + std::to_string(smallest) + " to 65536 is " +
                     "accepted");
  }
  return static_cast<int>(number);
}

std::array<double, kChannels> ToTriple(const std::string &key, const std::string &text) {
  std::array<double, kChannels> triple{};
  std::istringstream parts(text);
  std::string part;
  size_t count = 0;
  for (; std::getline(parts, part, ','); ++count) {
    if (count < triple.size()) {
      triple[count] = ToNumber(key, part);
    }
  }
  if (count != triple.size()) {
    throw UsageError("--" + key + " " + text + ": three numbers with commas between them are accepted");
  }
  return triple;
}

InputDescription ReadInput(const Values &values) {
  InputDescription input;
  input.height = ToInteger("height", Require(values, "height"), 1);
  input.width = ToInteger("width", Require(values, "width"), 1);
  input.mean = ToTriple("mean", Require(values, "mean"));
  input.std = ToTriple("std", Require(values, "std"));
  input.resize = Choose<ResizeMode>(values, "resize", "shorter_side",
                                    {{"shorter_side", ResizeMode::kShorterSide},
                                     {"both_sides", ResizeMode::kBothSides},
                                     {"letterbox", ResizeMode::kLetterbox}});
  input.crop_ratio = ToNumber("crop_ratio", Get(values, "crop_ratio", "1"));
  input.interpolation = Choose<Interpolation>(
    values, "interpolation", "bilinear",
    {{"nearest", Interpolation::kNearest},
     {"bilinear", Interpolation::kBilinear},
     {"bicubic", Interpolation::kBicubic}});
  if (input.crop_ratio <= 0.0 || input.crop_ratio > 1.0) {
    throw UsageError("--crop_ratio " + Require(values, "crop_ratio") + ": above 0 and up to 1 is accepted");
  }
  for (double value : input.std) {
    if (value <= 0.0) {
      throw UsageError("--std " + Require(values, "std") + ": numbers above 0 are accepted");
    }
  }
  if (input.resize == ResizeMode::kShorterSide && input.height != input.width) {
    throw UsageError("--resize shorter_side needs equal --height and --width");
  }
  return input;
}

}  // namespace

Options ParseOptions(int argc, const char *const *argv) {
  const Values values = ReadArguments(argc, argv);
  Options options;
  options.wants_help = values.count("help") != 0;
  if (options.wants_help) {
    return options;
  }
  options.mindir_path = Require(values, "mindir_path");
  options.dataset_path = Require(values, "dataset_path");
  options.output_dir = Get(values, "output_dir", options.output_dir);
  options.device_target = Choose<DeviceTarget>(values, "device_target", "Ascend",
                                               {{"Ascend", DeviceTarget::kAscend}, {"CPU", DeviceTarget::kCpu}});
  options.device_id = static_cast<uint32_t>(ToInteger("device_id", Get(values, "device_id", "0"), 0));
  options.input = ReadInput(values);
  return options;
}

}  // namespace infer
