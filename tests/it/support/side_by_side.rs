//! Runs the cases of one test in parallel: cases mostly wait, for processes, for mounts
//! and for slow drivers.

use std::{
    num::NonZero,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Condvar, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, Builder},
};

/// How many cases run at once, over all tests: twice the number of processors keeps
/// these busy, and more would only make deadlines expire.
static AT_ONCE: LazyLock<usize> = LazyLock::new(|| {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    (2 * processors).min(16)
});

/// Runs `check` on each case. When one fails, no further one begins, and the test fails
/// with the names of the failed cases.
///
/// # Panics
/// When a case fails.
pub fn each<C: Sync>(cases: &[C], name: impl Fn(&C) -> String + Sync, check: impl Fn(&C) + Sync) {
    map(cases, name, check);
}

/// Like [`each`], with the result of each case, in the order of the cases.
///
/// # Panics
/// When a case fails.
pub fn map<C: Sync, T: Send>(
    cases: &[C],
    name: impl Fn(&C) -> String + Sync,
    run: impl Fn(&C) -> T + Sync,
) -> Vec<T> {
    map_with(cases, |_| (), name, |(), case| run(case))
}

/// Like [`map`], if a case needs something that only one can use at a time, such as a
/// libvirt domain: each worker makes one, from its number, which begins at 0.
///
/// # Panics
/// When a case fails.
pub fn map_with<C: Sync, T: Send, R>(
    cases: &[C],
    make: impl Fn(usize) -> R + Sync,
    name: impl Fn(&C) -> String + Sync,
    run: impl Fn(&R, &C) -> T + Sync,
) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let (done, failed) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let work = |worker| {
        let resource = make(worker);
        while lock(&failed).is_empty() {
            let number = next.fetch_add(1, Ordering::SeqCst);
            let Some(case) = cases.get(number) else {
                return;
            };
            let _turn = Turn::take();
            match catch_unwind(AssertUnwindSafe(|| run(&resource, case))) {
                Ok(result) => lock(&done).push((number, result)),
                Err(_) => {
                    // Printed below the message of the panic, which gives the position.
                    eprintln!("in the case: {}", name(case));
                    lock(&failed).push(name(case));
                }
            }
        }
    };
    // Output names the test, as in the test's own thread.
    let test = thread::current().name().unwrap_or("test").to_owned();
    thread::scope(|scope| {
        for worker in 0..cases.len().min(*AT_ONCE) {
            let thread = Builder::new().name(test.clone());
            let work = &work;
            thread.spawn_scoped(scope, move || work(worker)).unwrap();
        }
    });
    let failed = lock(&failed);
    assert!(failed.is_empty(), "failed:\n  {}", failed.join("\n  "));
    let mut done = std::mem::take(&mut *lock(&done));
    done.sort_by_key(|(number, _)| *number);
    assert_eq!(done.len(), cases.len());
    done.into_iter().map(|(_, result)| result).collect()
}

/// The right to run, for one of the parallel cases.
struct Turn;

static TURNS: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

impl Turn {
    fn take() -> Self {
        let (taken, given_back) = &TURNS;
        let all_are_taken = |taken: &mut usize| *taken >= *AT_ONCE;
        let taken = given_back.wait_while(lock(taken), all_are_taken);
        *taken.unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (taken, given_back) = &TURNS;
        *lock(taken) -= 1;
        given_back.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn each_case_runs_once_and_has_its_result() {
    let cases: Vec<usize> = (0..100).collect();
    let seen = Mutex::new(Vec::new());
    let results = map(&cases, ToString::to_string, |case| {
        lock(&seen).push(*case);
        2 * case
    });
    let mut seen = seen.into_inner().unwrap();
    seen.sort_unstable();
    assert_eq!(seen, cases);
    let doubled: Vec<usize> = (0..100).map(|case| 2 * case).collect();
    assert_eq!(results, doubled);
}

#[test]
fn a_case_that_fails_is_named() {
    let check = |case: &u32| assert!(*case != 7, "seven");
    let result = catch_unwind(|| {
        each(&[1, 7, 9], |case| format!("number {case}"), check);
    });
    let message = result.unwrap_err();
    assert_eq!(
        message.downcast_ref::<String>().unwrap(),
        "failed:\n  number 7"
    );
}
