//! A peer that lies, at each request.

use common::protocol::RequestName;
use strum::VariantArray;

use crate::case::{Case, Exercise, at_time};

pub(crate) fn cases(cases: &mut Vec<Case>) {
    for request in RequestName::VARIANTS.iter().copied() {
        for (lie, says) in [
            ("other", "is answered with an answer to something else"),
            ("twice", "is answered twice"),
            ("refused", "is met, and refused"),
        ] {
            destination(cases, request, lie, says);
        }
        for (lie, says) in [
            ("other", "something that is out of turn is sent in place of"),
            ("twice", "the source sends twice"),
        ] {
            source(cases, request, lie, says);
        }
    }
    for fate in ["committed", "under_way", "rolled_back", "unknown"] {
        let what = format!("asked whether all is on disk, the destination says `{fate}`");
        // For as long as the source asks: the server is started again afterwards.
        cases.push(
            Case::new("destination lies", &format!("on_disk, {fate}"), what)
                .server("server.fate.says", &format!("return({fate})"))
                .noticed(),
        );
    }
}

/// How often a request is sent in a migration at which another lie is another case.
fn times(request: RequestName) -> u32 {
    match request {
        // The skeleton, the files, then the checkpoint.
        RequestName::Receive | RequestName::StreamEnd => 3,
        _ => 1,
    }
}

fn destination(cases: &mut Vec<Case>, request: RequestName, lie: &str, says: &str) {
    let name: &str = request.into();
    for time in 1..=times(request) {
        let nth = ["", " (2nd)", " (3rd)"][time as usize - 1];
        let what = format!("`{name}`{nth} {says}");
        let case = Case::new("destination lies", &format!("{name}{nth}, {lie}"), what);
        let action = at_time(time, &format!("return({lie})"));
        let case = case
            .by_request(request)
            .map(|case| case.server(&format!("server.{name}.says"), &action));
        // A second question, on a new connection, is answered truthfully; and what is undone stays so.
        let asked_again = matches!(
            request,
            RequestName::Abort | RequestName::Fate | RequestName::Commit
        );
        cases.extend(case.map(|case| match lie == "other" && !asked_again {
            true => case.noticed(),
            false => case,
        }));
    }
}

fn source(cases: &mut Vec<Case>, request: RequestName, lie: &str, says: &str) {
    // That one is sent whatever was said before, and ends everything.
    if request == RequestName::Abort {
        return;
    }
    let name: &str = request.into();
    for time in 1..=times(request) {
        let nth = ["", " (2nd)", " (3rd)"][time as usize - 1];
        let what = format!("{says} `{name}`{nth}");
        let case = Case::new("source lies", &format!("{name}{nth}, {lie}"), what);
        let action = at_time(time, &format!("return({lie})"));
        let case = case
            .by_request(request)
            .map(|case| case.client(&format!("client.{name}.says"), &action));
        let answered = case.filter(|case| case.exercise != Exercise::Ask);
        cases.extend(answered.map(|case| match lie == "other" {
            true => case.noticed(),
            false => case,
        }));
    }
}
