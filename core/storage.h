// Owned bytes on one device, shared by tensors that view them. The version counts in-place writes, so that a derivative
// can tell that a tensor it saved has changed since.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/device.h"

namespace norma {

class Storage {
 public:
  Storage(Device device, std::size_t bytes);  // from the device's backend; throws Error when memory is out
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  std::uint32_t version() const { return version_; }
  void bump() { ++version_; }

 private:
  Device device_;
  std::size_t bytes_;
  void* data_;
  std::uint32_t version_ = 0;
};

}  // namespace norma
