// No code: CMakeLists.txt has a program of this source compile the tests' headers.
