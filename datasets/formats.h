// The file formats of image sets. Headers and sizes are checked before anything is allocated; messages name the file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "datasets/bytes.h"

namespace norma::datasets {

/// IDX (LeCun's MNIST format) of unsigned bytes: big-endian magic 0x00000800 + rank, sizes, bytes. Plain or gzip, told
/// apart by the content.
struct Idx {
  std::vector<Index> sizes;
  Bytes bytes;
};
/// `rank`: 3 for images, 1 for labels; the other one is recognised in the message as a swapped file.
Idx read_idx(const std::filesystem::path& path, int rank);

/// CIFAR-10's binary version: records of a label and 3072 pixels (channel, row, column). Appends to both.
void read_cifar(const std::filesystem::path& path, Bytes& pixels, Bytes& labels);

/// Throws `FILE: record 17: label 10 is outside 0..9`.
void check_labels(std::span<const std::uint8_t> labels, Index classes, const std::string& file);

/// Size and SHA-256 of a file's contents, without gzip. Stops with an error beyond `limit` bytes.
struct Content {
  std::uint64_t bytes = 0;
  std::string sha256;
};
Content content_of(const std::filesystem::path& path, std::uint64_t limit);

}  // namespace norma::datasets
