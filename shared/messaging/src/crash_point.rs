//! The macro that names a crash point, in both builds.

/// Passes a point of [`crate::fault`], or dies there: `crash_point!(AfterClaim)`.
#[cfg(feature = "fault-injection")]
#[macro_export]
macro_rules! crash_point {
    ($point:ident) => {
        $crate::fault::pass($crate::fault::Point::$point)
    };
}

/// Nothing: this build has no crash points (cargo feature `fault-injection`).
#[cfg(not(feature = "fault-injection"))]
#[macro_export]
macro_rules! crash_point {
    ($point:ident) => {};
}
