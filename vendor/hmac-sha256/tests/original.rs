//! The original is the reference: both compute the same code for every input and key.

use proptest::prelude::*;

/// From nothing to several blocks of 64 bytes.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..300)
}

proptest! {
    #[test]
    fn every_code_is_that_of_the_original(input in bytes(), key in bytes()) {
        prop_assert_eq!(hmac_sha256::HMAC::mac(&input, &key), original::HMAC::mac(&input, &key));
    }
}

#[test]
fn a_length_at_the_edge_of_a_block_is_no_exception() {
    for length in [0, 1, 55, 56, 63, 64, 65, 119, 120, 127, 128, 129, 200_000] {
        let bytes = vec![0xA5; length];
        assert_eq!(hmac_sha256::HMAC::mac(&bytes, b"key"), original::HMAC::mac(&bytes, b"key"));
        assert_eq!(hmac_sha256::HMAC::mac(b"input", &bytes), original::HMAC::mac(b"input", &bytes));
    }
}
