// The cases of the device's tests are compiled once, for the emulator and for a device.
#pragma once

namespace norma {

/// Whether they run on a device; main.cpp says it.
bool on_device();

}  // namespace norma
