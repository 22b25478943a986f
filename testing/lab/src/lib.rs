//! Namespaces, kernel NATs and a userspace wire around the real binary.
