// The library's one exception, and the fence at the C boundary that turns it into a status.
#pragma once

#include <exception>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/text.h"
#include "dca.h"

namespace dca {

/// A failure with the status that the C API returns for it. The message is one line:
/// what was expected, what was found, and where.
class __attribute__((visibility("default"))) Error : public std::runtime_error {
public:
    Error(dca_status status, const std::string& message) : std::runtime_error(message), status_(status) {}
    dca_status status() const noexcept { return status_; }

private:
    dca_status status_;
};

/// There is memory for `tokens` tokens only (DCA_ERROR_MEMORY).
class __attribute__((visibility("default"))) RoomError : public Error {
public:
    RoomError(uint64_t tokens, const std::string& message) : Error(DCA_ERROR_MEMORY, message), tokens_(tokens) {}
    uint64_t tokens() const noexcept { return tokens_; }

private:
    uint64_t tokens_;
};

/// A part of a message as it is shown: text, which may come from a file or a caller, made printable.
template <class Part>
decltype(auto) message_part(const Part& part) {
    constexpr size_t longest_text = 300;
    if constexpr (std::is_convertible_v<const Part&, std::string_view>) {
        return printable(part, longest_text);
    } else {
        return (part);
    }
}

/// A message of these parts.
template <class... Parts>
std::string message_from(const Parts&... parts) {
    std::ostringstream message;
    message.exceptions(std::ios::badbit);  // memory that runs out is an error of its own, not a shorter message
    (message << ... << message_part(parts));
    return message.str();
}

/// Throws an Error whose message is the parts put together.
template <class... Parts>
[[noreturn]] void fail(dca_status status, const Parts&... parts) {
    throw Error(status, message_from(parts...));
}

/// Remembers the calling thread's message for dca_last_error(), made printable.
void set_last_error(const char* message) noexcept;

/// Runs `body`; whatever it throws becomes a status and the thread's message.
template <class Body>
dca_status guarded(Body&& body) noexcept {
    try {
        body();
        return DCA_OK;
    } catch (const Error& error) {
        set_last_error(error.what());
        return error.status();
    } catch (const std::bad_alloc&) {
        set_last_error("out of memory");
        return DCA_ERROR_MEMORY;
    } catch (const std::exception& error) {
        set_last_error(error.what());
        return DCA_ERROR_INTERNAL;
    } catch (...) {
        set_last_error("unknown failure");
        return DCA_ERROR_INTERNAL;
    }
}

}  // namespace dca
