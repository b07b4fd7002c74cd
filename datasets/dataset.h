// Labelled images in memory, and where they come from.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "datasets/bytes.h"

namespace norma::datasets {

/// Images as the files hold them: u8, row-major [count, channels, height, width], each byte read once.
struct ImageSet {
  std::string name;
  Index count = 0, channels = 0, height = 0, width = 0, classes = 0;
  Bytes pixels;
  Bytes labels;
  std::vector<std::string> class_names;  // of all classes, or none
  std::vector<float> mean, std;  // per channel, of pixels / 255, over the training split
};
struct ImageData {
  ImageSet train, test;
  std::string notice;  // where there are not as many images as the set usually has, or other classes: how many there are
};

/// Throws naming set, field, what it must be and what it is: sizes, pixels, labels, names, mean and std that do not fit one another, labels
/// that are no class, a mean that is not finite, a std that is not above zero. Loader and the two that follow ask it of every set.
void check(const ImageSet& set);

/// `count` images from `begin` on, as a set of their own.
ImageSet slice(const ImageSet& set, Index begin, Index count);
/// The name of a class, or its number where it has none: a model may tell more classes apart than the set has.
std::string class_name(const ImageSet& set, Index label);
/// All pixels as a model of `side` gets them: a smaller image stands in the middle of zeros (see LoaderConfig::image). Throws where they
/// are larger.
std::vector<std::uint8_t> centred(const ImageSet& set, Index side);

/// SHA-256 over the decoded pixels and labels, hex: a resume checks it.
std::string hash_of(const ImageSet& set);

/// Reads a data set by name ("fashion-mnist", "cifar-10"), from the first of its `locations`. A class-names.txt beside the files, a name a
/// line, says what its classes are instead: the files are then images of the user's own (docs/own-images.md). Throws saying where it looked
/// and how to get it; damaged files are named with the byte or record. `from`: the file that named data_dir, where one did, begins the error
/// of a data_dir that is no folder or holds none of the files.
ImageData load_images(const std::string& name, const std::filesystem::path& data_dir = {}, const std::string& from = {});
std::vector<std::string> image_sets();
/// Where a set is looked for: in data_dir and nowhere else; where that is empty in the usual places.
std::vector<std::filesystem::path> locations(const std::string& name, const std::filesystem::path& data_dir = {});

}  // namespace norma::datasets
