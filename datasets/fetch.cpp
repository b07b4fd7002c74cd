// Every file goes source -> temporary file beside its place -> check -> rename.
#include "datasets/fetch.h"

#include <cerrno>
#include <fstream>
#include <vector>

#include "core/atomic_file.h"
#include "core/error.h"
#include "core/folder.h"
#include "datasets/catalog.h"
#include "datasets/formats.h"
#include "datasets/http.h"

namespace norma::datasets {

namespace fs = std::filesystem;

namespace {

/// gzip never needs more than this above the contents.
std::uint64_t packed_limit(const KnownFile& file) { return file.bytes + file.bytes / 100 + 4096; }

/// Empty when the contents are right, else what is wrong.
std::string fault(const fs::path& path, const KnownFile& file) {
  try {
    const Content content = content_of(path, file.bytes);
    if (content.bytes != file.bytes) return fmt::format("holds {} bytes, expected {}", content.bytes, file.bytes);
    if (content.sha256 != file.sha256) return fmt::format("SHA-256 is {}, expected {}", content.sha256, file.sha256);
  } catch (const Error& e) {  // its text names the temporary file first
    const std::string text = e.what(), name = path.filename().string() + ": ";
    return text.starts_with(name) ? text.substr(name.size()) : text;
  }
  return {};
}

/// Removes what a process left of this file that was killed while it fetched it.
void remove_abandoned(const fs::path& home, const KnownFile& file) {
  std::error_code error;
  for (const auto& entry : entries_of(home)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("." + file.name + ".") && is_abandoned(name)) fs::remove(entry.path(), error);
  }
}

bool is_url(const std::string& from) { return from.find("://") != std::string::npos; }

/// Checks what lies in the temporary file and gives it its name.
void settle(AtomicFile& out, const KnownFile& file, const std::string& source) {
  if (const std::string wrong = fault(out.temporary(), file); !wrong.empty()) {
    fail("{}: {}; not taken", source, wrong);
  }
  out.commit();
}

void copy_file(const fs::path& source, const fs::path& target, const KnownFile& file, const FetchProgress& progress) {
  std::error_code error;
  const std::uint64_t total = fs::file_size(source, error);
  if (error) fail("{}: cannot be read, {}", source.string(), error_text(error.value()));
  if (total > packed_limit(file))
    fail("{}: {} bytes, expected at most {}; not taken", source.string(), total, packed_limit(file));
  std::ifstream in(source, std::ios::binary);
  if (!in) fail("{}: cannot be opened, {}", source.string(), error_text(errno));
  AtomicFile out(target, total);
  std::vector<char> buffer(1u << 18);
  std::uint64_t done = 0;
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())), in.gcount() > 0) {
    const auto n = static_cast<std::size_t>(in.gcount());
    out.write(std::as_bytes(std::span(buffer.data(), n)));
    done += n;
    if (progress) progress(target.filename().string(), done, total);
  }
  settle(out, file, source.string());
}

/// False when the server has no such file.
bool download(const std::string& url, const fs::path& target, const KnownFile& file, const FetchProgress& progress) {
  AtomicFile out(target, file.bytes);
  std::uint64_t done = 0;
  const int status = http_get(url, {packed_limit(file)}, [&](std::span<const std::byte> bytes, std::uint64_t total) {
    out.write(bytes);
    done += bytes.size();
    if (progress) progress(target.filename().string(), done, total);
  });
  if (status == 404) return false;
  if (status != 200) fail("{}: the server answers {}", url, status);
  settle(out, file, url);
  return true;
}

fs::path from_folder(const KnownSet& set, const fs::path& folder, const fs::path& home, const KnownFile& file,
                     const FetchProgress& progress) {
  for (const fs::path& place : {folder, folder / set.folder, folder / set.name}) {
    const fs::path source = find_file(place, file);
    if (source.empty()) continue;
    const fs::path target = home / source.filename();
    copy_file(source, target, file, progress);
    return target;
  }
  fail("{}: {}{} is not there; {} has the files of {}", folder.string(), file.name, set.gzip ? "[.gz]" : "", set.source,
       set.name);
}

fs::path from_server(const KnownSet& set, std::string base, const fs::path& home, const KnownFile& file,
                     const FetchProgress& progress) {
  while (base.ends_with('/')) base.pop_back();
  std::vector<std::string> endings = {""};
  if (set.gzip) endings.insert(endings.begin(), ".gz");
  for (const std::string& ending : endings) {
    const fs::path target = home / (file.name + ending);
    if (download(base + "/" + file.name + ending, target, file, progress)) return target;
  }
  fail("{}: the server has no {}{}", base, file.name, set.gzip ? "[.gz]" : "");
}

}  // namespace

fs::path fetch(const KnownSet& set, const std::string& from, const fs::path& data_dir, const FetchProgress& progress) {
  if (from.empty()) fail("data set \"{}\": say from where; {}", set.name, set.get);
  if (is_url(from) && !from.starts_with("http://")) {
    fail("{}: only http:// and folders can be fetched from; download the files of {} by hand and use --from FOLDER",
         from, set.source);
  }
  std::error_code error;
  if (!is_url(from) && !fs::is_directory(from, error)) fail("{}: is not a folder", from);
  const fs::path home = home_of(set, data_dir);
  fs::create_directories(home, error);
  if (error) fail("{}: cannot be created, {}", home.string(), error_text(error.value()));
  for (const KnownFile& file : set.files) {
    remove_abandoned(home, file);
    const fs::path old = find_file(home, file);
    if (!old.empty() && fault(old, file).empty()) {
      if (progress) progress(old.filename().string(), file.bytes, file.bytes);
      continue;
    }
    const fs::path fetched =
        is_url(from) ? from_server(set, from, home, file, progress) : from_folder(set, from, home, file, progress);
    if (!old.empty() && old != fetched) fs::remove(old, error);  // a damaged one in the other form
  }
  return home;
}

}  // namespace norma::datasets
