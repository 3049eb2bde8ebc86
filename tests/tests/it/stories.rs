//! The stories that Compose is told too, and that disturb nobody.

use anyhow::Result;
use system_tests::{each_story, stories};

use crate::story;

macro_rules! tell {
    ($($module:ident::$story:ident)*) => {
        $(#[test]
        fn $story() -> Result<()> {
            story(async |suite| stories::$module::$story(suite).await)
        })*
    };
}

each_story!(tell);
