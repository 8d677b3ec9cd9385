//! Tests of the entries of `allowed_outbound_hosts`.

use super::*;
use proptest::prelude::*;

fn allowed(entries: &[&str]) -> AllowedHosts {
    AllowedHosts::parse(entries).unwrap()
}

#[test]
fn hosts_and_ports_must_match() {
    let hosts = allowed(&[
        "*://spin.example:443",
        "http://example.com:8383",
        "http://Plain.example/",
    ]);
    assert!(hosts.allows("http", "example.com", Some(8383)));
    assert!(hosts.allows("https", "spin.example", None));
    assert!(hosts.allows("tcp", "spin.example", Some(443)));
    assert!(hosts.allows("http", "PLAIN.example", None));
    assert!(hosts.allows("http", "plain.example", Some(80)));
    assert!(!hosts.allows("http", "example.com", None));
    assert!(!hosts.allows("http", "spin.example", None));
    assert!(!hosts.allows("https", "example.com", Some(8383)));
    assert!(!hosts.allows("http", "plain.example", Some(81)));
    assert!(!hosts.allows("http", "other.example", None));
    assert!(!AllowedHosts::default().allows("http", "example.com", None));
}

#[test]
fn everything_can_be_allowed() {
    let hosts = allowed(&["*://*:*"]);
    assert!(hosts.allows("http", "example.com", None));
    assert!(hosts.allows("tcp", "::1", Some(1)));
    assert!(hosts.allows("anything", "example.com", None));
    assert!(hosts.allows_self());
}

#[test]
fn wildcards_match_subdomains_only() {
    let hosts = allowed(&["http://*.Example.com", "http://*.example2.com:8383"]);
    assert!(hosts.allows("http", "a.example.com", None));
    assert!(hosts.allows("http", "a.b.EXAMPLE.com", None));
    assert!(hosts.allows("http", "a.b.example2.com", Some(8383)));
    assert!(!hosts.allows("http", "a.b.example2.com", None));
    assert!(!hosts.allows("http", "example.com", None));
    assert!(!hosts.allows("http", "myexample.com", None));
}

#[test]
fn port_ranges_exclude_their_end() {
    let hosts = allowed(&["http://example.com:8000..9000"]);
    assert!(hosts.allows("http", "example.com", Some(8000)));
    assert!(hosts.allows("http", "example.com", Some(8999)));
    assert!(!hosts.allows("http", "example.com", Some(9000)));
    assert!(!hosts.allows("http", "example.com", None));
}

#[test]
fn all_spellings_of_an_address_match() {
    let hosts = allowed(&[
        "http://127.0.0.1:5561",
        "http://[::1]",
        "https://[2001:db8::1]:8443/",
    ]);
    for spelling in ["127.0.0.1", "127.1", "0x7f.0.0.1", "2130706433"] {
        assert!(hosts.allows("http", spelling, Some(5561)), "{spelling}");
    }
    assert!(hosts.allows("http", "::1", None));
    assert!(hosts.allows("http", "[0:0::1]", Some(80)));
    assert!(hosts.allows("https", "[2001:db8::1]", Some(8443)));
    assert!(!hosts.allows("http", "[::2]", None));
    assert!(!hosts.allows("http", "[::1]", Some(81)));
    assert!(!hosts.allows("http", "localhost", Some(5561)));
}

#[test]
fn networks_match_addresses() {
    let hosts = allowed(&[
        "*://10.1.2.3/8:80",
        "http://2001:db8::/32",
        "http://fd00::/8:8080",
    ]);
    assert!(hosts.allows("tcp", "10.200.0.1", Some(80)));
    assert!(!hosts.allows("tcp", "11.0.0.1", Some(80)));
    assert!(!hosts.allows("tcp", "10.0.0.1", Some(81)));
    assert!(hosts.allows("http", "[2001:db8:abcd::1]", None));
    assert!(!hosts.allows("http", "[2001:db9::1]", None));
    assert!(hosts.allows("http", "fd00::1", Some(8080)));
    assert!(!hosts.allows("http", "example.com", Some(80)));
}

#[test]
fn self_is_not_a_host() {
    let hosts = allowed(&["http://self"]);
    assert!(hosts.allows_self());
    assert!(!hosts.allows("http", "self", None));
    assert!(allowed(&["https://self.alt"]).allows_self());
    assert!(!allowed(&["redis://self"]).allows_self());
    assert!(!allowed(&["http://example.com"]).allows_self());
}

#[test]
fn service_chaining_hosts_name_a_component() {
    assert_eq!(service_chain_target("orders.spin.internal"), Some("orders"));
    assert_eq!(
        service_chain_target("orders.spin.internal:80"),
        Some("orders")
    );
    for other in [
        "spin.internal",
        ".spin.internal",
        "a.b.spin.internal",
        "orders.spin.internal.example",
        "orders",
    ] {
        assert_eq!(service_chain_target(other), None, "{other}");
    }
    let one = allowed(&["http://orders.spin.internal"]);
    assert!(one.allows("http", "orders.spin.internal", None));
    assert!(!one.allows("http", "page.spin.internal", None));
    let all = allowed(&["http://*.spin.internal"]);
    assert!(all.allows("http", "page.spin.internal", None));
    assert!(all.allows_as_subdomain_only("http", "page.spin.internal", None));
    assert!(!one.allows_as_subdomain_only("http", "orders.spin.internal", None));
    let any = allowed(&["http://*.spin.internal", "*://*:*"]);
    assert!(!any.allows_as_subdomain_only("http", "page.spin.internal", None));
}

#[test]
fn invalid_entries_are_errors() {
    for bad in [
        "",
        "*",
        ":",
        "?",
        "localhost",
        "localhost:3001",
        "example.com",
        "[::1]:8080",
        "insecure:allow-all",
        "http://",
        "http://*.",
        "http://*.:8080",
        "*://example.com",
        "*://127.0.0.0/24",
        "foo://example.com",
        "http://example.com/a",
        "http://example.com:66/a/b",
        "http://*.example.com/p",
        "http://example.com//",
        "http://127.0.0.0/24/p",
        "http://ff00::/8/extra",
        "http://[::1]/foo",
        "http://self//",
        "http://example.com:port",
        "http://example.com:8080..70000",
        "http://example.com:8080..",
        "http://example.com:80:90",
        "http://[::1]::80",
        "http://[::1]:port",
        "http://self:port",
        "http://*:port",
        "http://[::1",
        "http://[::1]junk",
        "http://[v1.]",
        "http://exa[mple.com",
        "http://example%GG.com",
        "http://*.127.0.0.1",
        "http://*.[::1]",
        "http://a.*.example.com",
        "http://a*.example.com",
        "{http,https}://example.com",
        "http://{a,b}",
        "http://example.com:{80,81}",
        "h2://example.com:80",
    ] {
        let error = check_entry(bad).expect_err(bad);
        assert_eq!(error.entry, bad);
    }
}

#[test]
fn deprecated_entries_are_converted() {
    assert_eq!(
        from_http_host("example.com").unwrap(),
        ["http://example.com", "https://example.com"]
    );
    assert_eq!(
        from_http_host("http://example.com:81/").unwrap(),
        ["http://example.com:81", "https://example.com:81"]
    );
    assert_eq!(from_http_host("self").unwrap(), ["http://self"]);
    assert_eq!(from_http_host("insecure:allow-all").unwrap().len(), 3);
    for bad in ["", "example.com/a", "ftp://example.com", "a b"] {
        assert!(from_http_host(bad).is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(entry in ".{0,30}", host in ".{0,30}", port: Option<u16>) {
        let shaped = format!("http://{entry}");
        for entry in [&entry, &shaped] {
            if let Ok(hosts) = AllowedHosts::parse(&[entry]) {
                hosts.allows("http", &host, port);
            }
            let _ = from_http_host(entry);
        }
        service_chain_target(&host);
    }

    #[test]
    fn exact_entries_match_one_port(name in "[a-z]{1,8}\\.example", port in 1u16.., other in 1u16..) {
        let hosts = allowed(&[&format!("http://{name}:{port}")]);
        prop_assert!(hosts.allows("http", &name, Some(port)));
        prop_assert_eq!(hosts.allows("http", &name, Some(other)), other == port);
    }
}
