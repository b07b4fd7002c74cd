// The safetensors file format: a JSON header and raw tensors. Reading validates everything before anything is allocated; loading
// runs no code. Every tensor carries a checksum (CRC-32C) and the file a digest in __metadata__, so that one flipped bit is noticed.
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>

#include "nn/module.h"
#include "train/safetensors_header.h"

namespace norma::train {

struct TensorFile {
  nn::Named tensors;
  std::map<std::string, std::string> metadata;
};

/// Writes atomically: temporary file in the same folder, fsync, rename, fsync of the folder. Throws with path, need and free bytes;
/// an older file under the name stays whole.
void write_safetensors(const std::filesystem::path& path, const TensorFile& file);
/// Throws naming the file and the byte, tensor or key that is wrong. Files without our checksums (timm's) are read too,
/// and F16 as f32.
TensorFile read_safetensors(const std::filesystem::path& path);
/// What is where in the file; the tensors are not read. Throws where it is no such file.
safetensors::Header read_safetensors_header(const std::filesystem::path& path);
TensorFile parse_safetensors(std::span<const std::byte> bytes, const std::string& name);

}  // namespace norma::train
