//! What the machine promises, one behaviour a test.
