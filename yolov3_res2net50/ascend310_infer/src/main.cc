// Shared file: source utils/cpp_infer/src/main.cc; copy with: python scripts/sync_model_utils.py --write
// Runs a MINDIR model on every picture of a folder; kUsage in options.cc says what is read and written.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <iostream>
#include <string>
#include <utility>
#include <vector>

#include "inc/files.h"
#include "inc/image_io.h"
#include "inc/model_runner.h"
#include "inc/options.h"
#include "inc/preprocess.h"

namespace infer {
namespace {

namespace fs = std::filesystem;

void CheckSize(const ModelRunner &model, const Options &options) {
  if (model.height() != options.input.height || model.width() != options.input.width) {
    throw Error("mindir_path=" + options.mindir_path + " takes " + std::to_string(model.height()) + " x " +
                std::to_string(model.width()) + " pixels (height x width), its description says " +
                std::to_string(options.input.height) + " x " + std::to_string(options.input.width));
  }
}

// Gathers pictures until a batch is full, runs it, and writes one file for each picture and output.
class BatchWriter {
 public:
  BatchWriter(ModelRunner *model, fs::path folder)
      : model_(model), folder_(std::move(folder)), images_(model->input_size()) {}

  // The place for the numbers of the next picture; Add makes them part of the batch.
  float *NextImage() { return images_.data() + names_.size() * model_->image_size(); }

  void Add(const std::string &name) {
    names_.push_back(name);
    if (names_.size() == model_->batch_size()) {
      Flush();
    }
  }

  // Runs what has been gathered; the rest of the batch is filled with zeros.
  void Flush() {
    if (names_.empty()) {
      return;
    }
    std::fill(NextImage(), images_.data() + images_.size(), 0.0F);
    const std::vector<std::vector<float>> outputs = model_->Predict(images_);
    for (size_t output = 0; output < outputs.size(); ++output) {
      const size_t count = outputs[output].size() / model_->batch_size();
      const std::string ending = outputs.size() == 1 ? ".bin" : "_" + std::to_string(output) + ".bin";
      for (size_t i = 0; i < names_.size(); ++i) {
        WriteFile(folder_ / (names_[i] + ending), outputs[output].data() + i * count, count * sizeof(float));
      }
    }
    written_ += names_.size();
    names_.clear();
  }

  size_t written() const { return written_; }

 private:
  ModelRunner *model_;
  fs::path folder_;
  std::vector<float> images_;
  std::vector<std::string> names_;
  size_t written_ = 0;
};

void WriteTiming(const fs::path &path, const ModelRunner &model, size_t images) {
  char text[256];
  const double average = model.milliseconds() / static_cast<double>(model.calls());
  const double per_image = model.milliseconds() / static_cast<double>(images);
  const int length = std::snprintf(text, sizeof(text),
                                   "NN inference cost average time: %.3f ms of infer_count %zu\n"
                                   "batch size %zu, %zu pictures, %.3f ms for each\n",
                                   average, model.calls(), model.batch_size(), images, per_image);
  if (length < 0 || static_cast<size_t>(length) >= sizeof(text)) {
    throw Error(path.string() + " cannot be written: its text is too long");
  }
  WriteFile(path, text, static_cast<size_t>(length));
  std::cout << text;
}

int Run(const Options &options) {
  const fs::path root = options.dataset_path;
  const fs::path results = fs::path(options.output_dir) / "result_Files";
  const fs::path timing = fs::path(options.output_dir) / "time_Result";
  const std::vector<fs::path> files = FindImages(root);
  const std::vector<std::string> names = ResultNames(files);
  ModelRunner model(options.mindir_path, options.device_target, options.device_id);
  CheckSize(model, options);
  MakeEmptyFolder(results);
  MakeEmptyFolder(timing);
  std::cout << files.size() << " pictures in " << root.string() << ", batch size " << model.batch_size() << std::endl;

  BatchWriter writer(&model, results);
  std::vector<std::string> failures;
  for (size_t i = 0; i < files.size(); ++i) {
    try {
      Normalize(FitImage(ReadImage(root / files[i]), options.input), options.input, writer.NextImage());
    } catch (const Error &error) {
      failures.push_back((root / files[i]).string() + ": " + error.what());
      continue;
    }
    writer.Add(names[i]);
  }
  writer.Flush();
  if (writer.written() > 0) {
    WriteTiming(timing / "test_perform_static.txt", model, writer.written());
  }
  std::cout << "results of " << writer.written() << " pictures: " << results.string() << std::endl;
  if (!failures.empty()) {
    std::cerr << "error: " << failures.size() << " of " << files.size()
              << " pictures could not be read and have no result:" << std::endl;
    for (const std::string &failure : failures) {
      std::cerr << "    " << failure << std::endl;
    }
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace infer

int main(int argc, char **argv) {
  try {
    const infer::Options options = infer::ParseOptions(argc, argv);
    if (options.wants_help) {
      std::cout << infer::kUsage;
      return 0;
    }
    return infer::Run(options);
  } catch (const infer::UsageError &error) {
    std::cerr << "error: " << error.what() << "\n\n" << infer::kUsage;
    return 2;
  } catch (const std::exception &error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 1;
  }
}
