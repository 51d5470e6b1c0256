// The watchers of an object: librados lists them in C++ only, so this is the one call that goes there, with a C signature.

#include <cerrno>
#include <cstring>
#include <list>
#include <string>

#include <rados/librados.hpp>

extern "C" {

// Writes the addresses of the clients that watch the object, each with its NUL, to a buffer that lus_buffer_free() frees.
// Returns 0, or a negated error number, and then no buffer. Blocks until the OSD answers.
int lus_list_watchers(rados_ioctx_t io, const char *oid, char **addresses, size_t *len)
{
  try {
    librados::IoCtx context;
    librados::IoCtx::from_rados_ioctx_t(io, context);
    std::list<obj_watch_t> watchers;
    const int rc = context.list_watchers(oid, &watchers);
    if (rc < 0) {
      return rc;
    }
    std::string text;
    for (const obj_watch_t &watcher : watchers) {
      text.append(watcher.addr, strnlen(watcher.addr, sizeof watcher.addr));
      text.push_back('\0');
    }
    char *buffer = new char[text.size() + 1];
    memcpy(buffer, text.data(), text.size());
    *addresses = buffer;
    *len = text.size();
    return 0;
  } catch (const std::bad_alloc &) {
    return -ENOMEM;
  } catch (...) {
    // Nothing may unwind into Rust.
    return -EIO;
  }
}

void lus_buffer_free(char *buffer)
{
  delete[] buffer;
}

}
