//! Lists of which a page at a time is shown.

use anyhow::Result;
use serde::Serialize;
use tidings_client::{Error, Page};

use crate::output::{Column, Output};

/// The flags of such a list.
#[derive(clap::Args)]
pub(crate) struct Paging {
    /// At most so many, 1 to 1,000; with --all, so many in each request
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: Option<u32>,
    /// Go on where the page before ended
    #[arg(long)]
    cursor: Option<String>,
    /// All pages, one after the other
    #[arg(long)]
    all: bool,
}

impl Paging {
    /// Prints the page that is asked for by its cursor, or it and all behind it as they come.
    pub(crate) async fn list<T: Serialize>(
        self,
        output: Output,
        shown: &[Column],
        mut ask: impl AsyncFnMut(Option<String>) -> Result<Page<T>, Error>,
    ) -> Result<()> {
        let (mut cursor, mut any) = (self.cursor, false);
        loop {
            let page = ask(cursor).await?;
            // A page may be empty and not the last: only at the end is it known that there is none.
            if !page.items.is_empty() || (page.next_cursor.is_none() && !any) {
                output.list(&page.items, shown)?;
                any = true;
            }
            match page.next_cursor {
                Some(next) if self.all => cursor = Some(next),
                Some(next) => {
                    output.more(&next);
                    return Ok(());
                }
                None => return Ok(()),
            }
        }
    }
}
