#include "base/files.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "base/error.h"

namespace weft {
namespace fs = std::filesystem;

struct Files : testing::Test {
  fs::path dir = fs::temp_directory_path() / ("weft_files_" + std::to_string(::getpid()));
  void SetUp() override { fs::create_directories(dir); }
  void TearDown() override { fs::remove_all(dir); }
};

TEST_F(Files, WritesWholeOrNotAtAll) {
  const std::string path = dir / "a";
  write_file_atomic(path, "one");
  {
    FileWriter w(path);
    w.write(std::string(3 << 20, 'x'));
  }  // never committed
  EXPECT_EQ(read_file(path), "one");
  EXPECT_FALSE(fs::exists(path + ".tmp"));
  FileWriter w(path);
  w.write("tw");
  w.write(std::string(2 << 20, 'o'));
  w.commit();
  EXPECT_EQ(read_file(path), "tw" + std::string(2 << 20, 'o'));
  append_file(path, "!");
  EXPECT_EQ(MappedFile(path).text().back(), '!');
}

TEST_F(Files, NeverReplacesADeviceAFolderOrALink) {
  const std::string pipe = dir / "pipe", link = dir / "link", target = dir / "target";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_THROW(FileWriter{pipe}, IoError);
  EXPECT_THROW(FileWriter{dir}, IoError);
  EXPECT_THROW(write_file_atomic("/dev/full", "x"), IoError);
  EXPECT_TRUE(fs::is_character_file("/dev/full"));
  write_file_atomic(target, "one");
  fs::create_symlink(target, link);
  write_file_atomic(link, "two");
  EXPECT_TRUE(fs::is_symlink(link));
  EXPECT_EQ(read_file(target), "two");
}

TEST_F(Files, NamesTheFileAndTheFault) {
  try {
    read_file(dir / "none");
    FAIL();
  } catch (const InputError& e) {
    EXPECT_EQ(std::string(e.what()), (dir / "none").string() + ": cannot be read: No such file or directory");
  }
  EXPECT_THROW(read_file(dir), InputError);
  EXPECT_THROW(MappedFile(dir / "none"), InputError);
  EXPECT_THROW(write_file_atomic(dir / "no" / "such", "x"), IoError);
  try {
    append_file("/dev/full", "x");
    FAIL();
  } catch (const IoError& e) {
    EXPECT_NE(std::string(e.what()).find("No space left"), std::string::npos);
    EXPECT_NE(std::string(e.what()).find("try: free some space"), std::string::npos);
  }
  write_file_atomic(dir / "empty", "");
  EXPECT_EQ(MappedFile(dir / "empty").bytes().size(), 0u);
}

TEST_F(Files, ALockIsTakenOnceAndFreedByDeath) {
  const std::string path = dir / "lock";
  int ready[2], leave[2];
  ASSERT_EQ(::pipe(ready) | ::pipe(leave), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    auto held = FileLock::try_take(path);
    char c = held != nullptr;
    if (::write(ready[1], &c, 1) != 1 || ::read(leave[0], &c, 1) != 1) ::_exit(1);
    ::_exit(0);
  }
  char c = 0;
  ASSERT_EQ(::read(ready[0], &c, 1), 1);
  EXPECT_EQ(c, 1);
  std::string holder;
  EXPECT_EQ(FileLock::try_take(path, &holder), nullptr);
  EXPECT_EQ(holder, std::to_string(child));
  ASSERT_EQ(::write(leave[1], &c, 1), 1);
  ::waitpid(child, nullptr, 0);
  EXPECT_NE(FileLock::try_take(path), nullptr);
}

TEST_F(Files, FreeDiskOfAFolderThatIsNotThereYet) { EXPECT_GT(free_disk(dir / "x" / "y"), 0u); }

}  // namespace weft
