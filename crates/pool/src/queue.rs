//! The waiters of a pool, first come first served; one that leaves does so without a search.

use std::collections::VecDeque;

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A queue whose entries can leave from anywhere.
#[derive(Clone, Debug)]
pub(crate) struct Queue<W> {
    places: VecDeque<Option<W>>,
    /// Ticket of the front place.
    first: u64,
    len: usize,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self { places: VecDeque::new(), first: 0, len: 0 }
    }
}

impl<W> Queue<W> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, waiter: W) -> Ticket {
        self.places.push_back(Some(waiter));
        self.len += 1;
        Ticket(self.first + self.places.len() as u64 - 1)
    }

    pub(crate) fn pop(&mut self) -> Option<W> {
        let front = self.places.pop_front()??;
        self.first += 1;
        self.len -= 1;
        self.drop_empty();
        Some(front)
    }

    pub(crate) fn front(&self) -> Option<&W> {
        self.places.front()?.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &W> {
        self.places.iter().flatten()
    }

    /// The places of those that `is_meant` names.
    pub(crate) fn tickets(&self, is_meant: impl Fn(&W) -> bool) -> impl Iterator<Item = Ticket> {
        let meant = move |place: &Option<W>| place.as_ref().is_some_and(&is_meant);
        self.places
            .iter()
            .enumerate()
            .filter(move |(_, place)| meant(place))
            .map(|(i, _)| Ticket(self.first + i as u64))
    }

    /// The waiter, if it is still there.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> Option<W> {
        let index = usize::try_from(ticket.0.checked_sub(self.first)?).ok()?;
        let waiter = self.places.get_mut(index)?.take()?;
        self.len -= 1;
        self.drop_empty();
        Some(waiter)
    }

    /// The front place, if there is one, is never empty: what each place costs is paid once.
    fn drop_empty(&mut self) {
        while let Some(None) = self.places.front() {
            self.places.pop_front();
            self.first += 1;
        }
        if self.places.is_empty() && self.places.capacity() > 1024 {
            self.places = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_survives_those_who_leave() {
        let mut queue = Queue::default();
        let tickets: Vec<_> = (0..6).map(|i| queue.push(i)).collect();
        assert_eq!(queue.leave(tickets[0]), Some(0));
        assert_eq!(queue.leave(tickets[0]), None);
        assert_eq!(queue.leave(tickets[2]), Some(2));
        assert_eq!((queue.front(), queue.len()), (Some(&1), 4));
        assert_eq!((queue.pop(), queue.pop()), (Some(1), Some(3)));
        assert_eq!(queue.leave(tickets[3]), None, "served already");
        assert_eq!(queue.leave(tickets[5]), Some(5));
        assert_eq!((queue.pop(), queue.pop(), queue.len()), (Some(4), None, 0));
        let again = queue.push(7);
        assert_eq!(queue.leave(again), Some(7));
    }
}
