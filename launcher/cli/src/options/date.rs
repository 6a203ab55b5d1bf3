//! `-startdate`.

use time::format_description::parse_borrowed;
use time::{Date, PrimitiveDateTime, Time};

use crate::draft::Draft;
use crate::error::{OptionError, Stop};
use crate::options::Given;

/// Formats of the manual; QEMU reads one digit where two are usual.
const DATE: &str = "[year]-[month padding:none]-[day padding:none]";
const TIME: &str = "[hour padding:none]:[minute padding:none]:[second padding:none]";

/// `-startdate now|YYYY-MM-DD[THH:MM:SS]`.
pub fn startdate(draft: &mut Draft, given: &Given) -> Result<(), Stop> {
    let text = given.text()?;
    draft.start_date = if text == "now" { None } else { Some(epoch(given, text)?) };
    Ok(())
}

/// Seconds since 1970-01-01T00:00:00.
fn epoch(given: &Given, text: &str) -> Result<i64, OptionError> {
    let (date, time) = text.split_once('T').map_or((text, None), |(date, time)| (date, Some(time)));
    let bad = || given.bad("not a date: now, YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS, a day of the calendar");
    let format = parse_borrowed::<2>(DATE).map_err(|_| bad())?;
    let date = Date::parse(date, &format).map_err(|_| bad())?;
    let time = match time {
        None => Time::MIDNIGHT,
        Some(time) => {
            let format = parse_borrowed::<2>(TIME).map_err(|_| bad())?;
            Time::parse(time, &format).map_err(|_| bad())?
        }
    };
    if date.year() < 0 {
        return Err(bad());
    }
    Ok(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp())
}
