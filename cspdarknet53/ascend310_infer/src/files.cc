// Shared file: source utils/cpp_infer/src/files.cc; copy with: python scripts/sync_model_utils.py --write
#include "inc/files.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <system_error>

#include "inc/error.h"

namespace infer {
namespace fs = std::filesystem;
namespace {

constexpr std::array<const char *, 6> kEndings = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"};
constexpr std::array<const char *, 10> kLeftBehind = {
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "@eadir", "__macosx", "icon\r",
    "$recycle.bin", "system volume information", "lost+found"};

std::string LowerCase(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return text;
}

// Hidden, or left behind by an operating system or a disk station.
bool IsSkipped(const fs::path &path) {
  const std::string name = LowerCase(path.filename().string());
  return name.front() == '.' || std::find(kLeftBehind.begin(), kLeftBehind.end(), name) != kLeftBehind.end();
}

bool IsImageName(const fs::path &path) {
  const std::string ending = LowerCase(path.extension().string());
  return std::find(kEndings.begin(), kEndings.end(), ending) != kEndings.end();
}

bool IsResultFolder(const fs::path &folder) {
  std::error_code ignored;
  return fs::is_directory(folder / "annotated", ignored) && fs::is_directory(folder / "result_Files", ignored);
}

std::vector<fs::path> ListFolder(const fs::path &folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  // The folder is closed again before any of its sub-folders is opened: a thousand classes need one open folder.
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    entries.push_back(entry->path());
  }
  if (error) {
    throw Error(folder.string() + " cannot be read: " + error.message());
  }
  return entries;
}

void Walk(const fs::path &folder, const fs::path &relative, std::set<fs::path> *visited, std::vector<fs::path> *found) {
  std::error_code error;
  const fs::path real = fs::canonical(folder, error);
  if (error) {
    throw Error(folder.string() + " cannot be read: " + error.message());
  }
  if (!visited->insert(real).second) {
    return;
  }
  std::vector<fs::path> entries = ListFolder(folder);
  std::sort(entries.begin(), entries.end());
  for (const fs::path &entry : entries) {
    if (IsSkipped(entry)) {
      continue;
    }
    // A link that points to nothing is neither kind; a picture behind one is reported when it is read.
    std::error_code ignored;
    if (fs::is_directory(entry, ignored)) {
      if (!IsResultFolder(entry)) {
        Walk(entry, relative / entry.filename(), visited, found);
      }
    } else if (IsImageName(entry)) {
      found->push_back(relative / entry.filename());
    }
  }
}

std::string JoinParts(const fs::path &path) {
  std::string name;
  for (const fs::path &part : path) {
    name += (name.empty() ? "" : "__") + part.string();
  }
  return name;
}

}  // namespace

std::vector<fs::path> FindImages(const fs::path &folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    throw Error("dataset_path=" + folder.string() + " is not a folder");
  }
  std::set<fs::path> visited;
  std::vector<fs::path> found;
  Walk(folder, fs::path(), &visited, &found);
  if (found.empty()) {
    throw Error("dataset_path=" + folder.string() + " holds no picture; JPEG, PNG, BMP and TIFF files are read");
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::vector<std::string> ResultNames(const std::vector<fs::path> &files) {
  using Spelling = std::function<std::string(const fs::path &)>;
  const std::array<Spelling, 3> spellings = {
    [](const fs::path &file) { return file.stem().string(); },
    [](const fs::path &file) { return JoinParts(file.parent_path() / file.stem()); },
    [](const fs::path &file) { return JoinParts(file); },
  };
  // Each file takes the first spelling that no other file shares.
  std::vector<std::string> names(files.size());
  for (const Spelling &spelling : spellings) {
    std::map<std::string, size_t> counts;
    for (const fs::path &file : files) {
      ++counts[LowerCase(spelling(file))];
    }
    for (size_t i = 0; i < files.size(); ++i) {
      const std::string name = spelling(files[i]);
      if (names[i].empty() && counts[LowerCase(name)] == 1) {
        names[i] = name;
      }
    }
  }
  std::map<std::string, size_t> owners;
  for (size_t i = 0; i < files.size(); ++i) {
    if (names[i].empty()) {
      names[i] = spellings.back()(files[i]);
    }
    const auto [owner, is_new] = owners.emplace(LowerCase(names[i]), i);
    if (!is_new) {
      throw Error("the results of " + files[owner->second].string() + " and " + files[i].string() +
                  " would have the same name, " + names[i] + "; rename one of the two");
    }
  }
  return names;
}

void MakeEmptyFolder(const fs::path &folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error || !fs::is_directory(folder, error)) {
    throw Error(folder.string() + " cannot be made" + (error ? ": " + error.message() : ""));
  }
  if (!ListFolder(folder).empty()) {
    throw Error(folder.string() + " holds results already; move them away");
  }
}

void WriteFile(const fs::path &path, const void *data, size_t size) {
  errno = 0;
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(static_cast<const char *>(data), static_cast<std::streamsize>(size));
  file.close();  // a full disk may show here only
  if (!file) {
    throw Error(path.string() + " cannot be written" + (errno != 0 ? std::string(": ") + std::strerror(errno) : ""));
  }
}

}  // namespace infer
