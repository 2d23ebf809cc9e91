//! One command after the other, each killed at a random moment and then repeated.

use std::collections::BTreeSet;

use copal::id::ArchiveId;
use copal::repository::archives::Archive;

use super::aim::Aim;
use super::dice::{Dice, setting};
use super::field::Field;
use super::orders::Order;

/// Kills in a run of the ordinary tests.
const KILLS: u64 = 50;
/// After so many kills the repository is looked at closely.
const ROUND: u64 = 100;

#[test]
fn whatever_is_killed_loses_nothing_and_succeeds_when_repeated() {
    let (seed, kills) = (Dice::seed(), setting("COPAL_KILLS").unwrap_or(KILLS));
    println!("COPAL_SEED={seed} COPAL_KILLS={kills}");
    let (mut dice, mut aim, field) = (Dice::new(seed), Aim::default(), Field::new());
    let mut sure: BTreeSet<ArchiveId> = BTreeSet::new();
    let (mut killed, mut number) = (0, 0);
    let mut now = field.verify(&sure, "new");
    while killed < kills {
        number += 1;
        let order = Order::draw(&field, &now, number, &mut dice);
        let at = format!("seed {seed}, command {number}, after {killed} kills, {order:?}");
        let mut ended = aim.shoot(order.kind, field.copal(&order.args), &field.repository(), &mut dice);
        let again = ended.killed;
        sure.retain(|id| !order.takes.contains(id));
        if again {
            killed += 1;
            field.verify(&sure, &at);
            match order.kind {
                "repair" => field.check_but(&["copy", "index", "pack-list"], &at),
                _ => field.check(&at),
            }
            let listed = field.copal("list repo").end();
            assert_eq!(listed.code, 0, "{at}: {listed}");
            ended = aim.complete(order.kind, field.copal(&order.args), &field.repository());
        }
        sure.extend(order.judge(&ended, again));
        now = field.verify(&sure, &at);
        // What is shown as confirmed is promised as much as what was reported as done.
        sure = now.archives.iter().filter(|archive| !archive.unconfirmed).map(Archive::id).collect();
        assert!(sure.is_disjoint(&order.takes), "{at}");
        if again && killed % ROUND == 0 {
            field.assert_clean(&sure, &at);
            println!("{killed} kills, {} archives", sure.len());
            now = field.verify(&sure, &at);
        }
    }
    field.assert_clean(&sure, &format!("seed {seed}, the end"));
    println!("{number} commands, {killed} kills, by tenths of their usual steps: {:?}", aim.hits);
}
