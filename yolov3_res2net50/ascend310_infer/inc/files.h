// Shared file: source utils/cpp_infer/inc/files.h; copy with: python scripts/sync_model_utils.py --write
// Which pictures there are, what their results are called, and writing them.
#ifndef CPP_INFER_INC_FILES_H_
#define CPP_INFER_INC_FILES_H_

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace infer {

// The pictures of a folder and its sub-folders, relative to it and sorted: files with the ending of a picture, without
// hidden ones and earlier results of infer.py. A link to a folder is followed, but none is visited twice. Throws Error
// for a folder that cannot be read or holds no picture.
std::vector<std::filesystem::path> FindImages(const std::filesystem::path &folder);

// Names of the results of pictures, without ending, as infer.py and create_label_list.py give them: the file name
// without its ending (a.b.jpg gives a.b); pictures that share it are told apart by their folders (cat__1 and dog__1),
// and if need be by their endings (1.jpg and 1.png keep them). Case does not tell names apart; of letters other than
// a-z it does here, not there. Throws Error for pictures that no name tells apart.
std::vector<std::string> ResultNames(const std::vector<std::filesystem::path> &files);

// Creates a folder; throws Error where it holds something, so that results of two runs never mix.
void MakeEmptyFolder(const std::filesystem::path &folder);

// Writes a file; throws Error where not all of it could be written.
void WriteFile(const std::filesystem::path &path, const void *data, size_t size);

}  // namespace infer

#endif  // CPP_INFER_INC_FILES_H_
