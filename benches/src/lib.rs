//! What the measuring programs share: the little of the protocol they speak, sockets and epoll, a histogram of
//! latencies, a load generator, and the accounts the kernel keeps of a process. It is written apart from the
//! pooler's own crates, so that a mistake there cannot hide here, and it is no PostgreSQL client to build upon: it
//! reads message headers and believes the rest.

pub mod epoll;
pub mod hist;
pub mod load;
pub mod login;
pub mod net;
pub mod proto;
pub mod tls;
pub mod usage;
