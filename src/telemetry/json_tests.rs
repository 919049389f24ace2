use proptest::prelude::*;

use super::*;

fn put(put: impl FnOnce(&mut Json)) -> String {
    let mut json = Json::default();
    put(&mut json);
    String::from_utf8(json.as_bytes().to_vec()).unwrap()
}

proptest! {
    #[test]
    fn any_text_is_written_as_serde_json_writes_it(text in any::<String>(), plain in "[ -~]{0,40}") {
        for text in [text, plain] {
            prop_assert_eq!(put(|json| json.text(&text)), serde_json::to_string(&text).unwrap());
        }
    }

    #[test]
    fn what_needs_an_escape_is_found_wherever_it_stands(before in "[a-zé]{0,20}", after in "[a-zé]{0,20}", special in 0_u8..0x80) {
        let text = format!("{before}{}{after}", char::from(special));
        prop_assert_eq!(put(|json| json.text(&text)), serde_json::to_string(&text).unwrap());
    }

    #[test]
    fn any_number_is_written_as_serde_json_writes_it(number: f64, whole: u64, times in 1..4) {
        let written = put(|json| (0..times).for_each(|_| json.float(number)));
        prop_assert_eq!(written, serde_json::to_string(&number).unwrap().repeat(times as usize));
        for whole in [whole, whole >> 40, whole % 100_000_000, u64::from(whole as u16)] {
            prop_assert_eq!(put(|json| json.integer(whole)), whole.to_string());
        }
    }

    #[test]
    fn numbers_that_share_a_place_are_told_apart(numbers in prop::collection::vec((-100_i32..100).prop_map(|n| f64::from(n) / 7.0), 0..400)) {
        let mut json = Json::default();
        for number in numbers {
            json.clear();
            json.float(number);
            prop_assert_eq!(json.as_bytes(), serde_json::to_vec(&number).unwrap());
        }
    }

    #[test]
    fn any_span_is_written_as_serde_json_writes_it(micros in 0_u64..1 << 60, small in 0_u64..10_000_000, any: f64) {
        for millis in [micros as f64 / 1e3, small as f64 / 1e3, any, any * 1e-300] {
            let millis = Millis::saturating(millis);
            prop_assert_eq!(put(|json| json.millis(millis)), serde_json::to_string(&millis).unwrap());
        }
    }

    #[test]
    fn any_moment_is_written_as_serde_json_writes_it(second in -200_000_000_000_i64..250_000_000_000, nanos in 0..999_999_999, rough in 0..1000) {
        for nanos in [0, nanos, nanos / 10 * 10, rough * 1_000_000] {
            let at = Timestamp::new(second, nanos).unwrap();
            prop_assert_eq!(put(|json| json.time(at)), serde_json::to_string(&at).unwrap());
        }
    }
}

#[test]
fn a_number_has_its_digits_and_a_span_its_part() {
    let near = |number: u32| number.saturating_sub(2)..=number.saturating_add(2);
    for number in (0..=9).flat_map(|power| near(10_u32.pow(power))).chain(0..11_000) {
        assert_eq!(put(|json| json.integer(number)), number.to_string());
        let millis = Millis::saturating(f64::from(number) / 1e3);
        assert_eq!(put(|json| json.millis(millis)), serde_json::to_string(&millis).unwrap());
    }
}

#[test]
fn a_minus_before_nothing_is_kept() {
    let millis = Millis::new(-0.0).unwrap();
    assert_eq!(put(|json| json.millis(millis)), serde_json::to_string(&millis).unwrap());
}

#[test]
fn room_grows_for_a_long_line_and_is_given_back() {
    let mut json = Json::default();
    let long = "x".repeat(300_000);
    json.text(&long);
    json.constant(b",");
    assert_eq!(json.as_bytes().len(), 300_003);
    json.clear();
    assert_eq!((json.as_bytes().len(), json.bytes.len()), (0, ROOM));
}

#[test]
fn seconds_are_forgotten_in_turn() {
    let mut json = Json::default();
    for second in (0..50).chain(40..60) {
        json.clear();
        let at = Timestamp::from_second(second).unwrap();
        json.time(at);
        assert_eq!(json.as_bytes(), format!("\"{at}\"").as_bytes());
    }
}
