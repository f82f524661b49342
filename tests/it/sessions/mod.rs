//! Sessions: what a session keeps, who is logged in, and what protects both. Each test fails when
//! the protection it is about is taken out.

mod cookie;
mod csrf;
mod login;
mod logout;
mod site;
mod storage;
mod tickets;
