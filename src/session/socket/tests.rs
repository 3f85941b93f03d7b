//! Promises of the socket.
