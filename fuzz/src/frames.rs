//! Any text as a client's frame: it parses or is refused, never a panic; what parses comes back equal.
#![no_main]

use everline::protocol::{ClientFrame, ServerFrame};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match ClientFrame::parse(text) {
        Ok(frame) => {
            let again = frame.to_json();
            assert_eq!(ClientFrame::parse(&again).expect("what was written parses"), frame, "{again}");
        }
        Err(reject) => {
            let error = ServerFrame::from(reject.into_frame()).to_json();
            assert!(ServerFrame::parse(&error).is_ok(), "{error}");
        }
    }
    if let Ok(frame) = ServerFrame::parse(text) {
        let again = frame.to_json();
        if frame != ServerFrame::Unknown {
            assert!(ServerFrame::parse(&again).is_ok(), "{again}");
        }
    }
});
