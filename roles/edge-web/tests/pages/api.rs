//! Who is let in and what is done for him, by hand-written requests.

use serde_json::json;
use warren_proto::ForwardProtocol;

use crate::world::{HOSTILE, LAPTOP, World};

const JSON: &str = "Content-Type: application/json\r\n";

fn forward() -> String {
    json!({ "protocol": "tcp", "port": 8080, "target": { "ip": "192.168.1.9" }, "target_port": 80 })
        .to_string()
}

#[tokio::test]
async fn a_program_does_by_the_api_what_the_pages_do() {
    let world = World::new(true, true);
    let (status, edge) = world.ask("GET /api/v1/edge", "", "").await;
    assert!(status == 200 && edge.contains("\"may_change\":true"), "{edge}");
    let (status, made) = world.ask("POST /api/v1/forwards", JSON, &forward()).await;
    assert_eq!(status, 201, "{made}");
    let (status, refused) = world.ask("POST /api/v1/forwards", JSON, &forward()).await;
    assert!(status == 422 && refused.contains("leads elsewhere"), "{refused}");
    let spec = world.account.spec.lock().unwrap().forwards.clone();
    assert_eq!((spec.len(), spec[0].protocol), (1, ForwardProtocol::Tcp));
    assert_eq!(world.account.asked_from.lock().unwrap()[0], LAPTOP, "the broker is told who");
    let one = format!("DELETE /api/v1/forwards/{}", spec[0].id);
    assert_eq!(world.ask(&one, "", "").await.0, 204);
    assert_eq!(world.ask("DELETE /api/v1/forwards/x", "", "").await.0, 404);
    let newer = r#"{"protocol":"tcp","port":1,"target":{"ip":"192.168.1.9"},"newer":1}"#;
    assert_eq!(world.ask("POST /api/v1/forwards", JSON, newer).await.0, 422, "not by halves");
    let (status, devices) = world.ask("GET /api/v1/devices", "", "").await;
    assert!(status == 200 && devices.contains("192.168.1.66"));
    let (_, edge) = world.ask("GET /api/v1/edge", "", "").await;
    assert!(edge.contains("\"large_networks\":[") && edge.contains("\"devices\":4"), "{edge}");
    let public = r#"{"networks":["8.8.8.0/24"]}"#;
    let (status, refused) = world.ask("POST /api/v1/scan", JSON, public).await;
    assert!(matches!(status, 422 | 500) && !refused.contains("\"running\":true"), "{refused}");
    assert_eq!(world.ask("GET /api/v1/nothing", "", "").await.0, 404);
    assert_eq!(world.ask("GET /api/v1/openapi.json", "", "").await.0, 200);
    let (_, log) = world.ask("GET /api/v1/log", "", "").await;
    assert!(log.contains("was added") && log.contains("laptop"), "{log}");
    let (status, csv) = world.ask("GET /devices.csv", "", "").await;
    assert!(status == 200 && csv.contains("\"192.168.1.9\",\"3c:52:82:01:02:03\""), "{csv}");
}

#[tokio::test]
async fn a_forward_to_another_address_is_bound_to_the_card_that_is_there() {
    let world = World::new(true, true);
    let bound = json!({ "protocol": "tcp", "port": 8080,
        "target": { "ip": "192.168.1.20", "mac": "3c:52:82:01:02:20" } });
    let (status, made) = world.ask("POST /api/v1/forwards", JSON, &bound.to_string()).await;
    assert_eq!(status, 201, "{made}");
    let id = world.account.spec.lock().unwrap().forwards[0].id;
    let (_, page) = world.ask(&format!("GET /forwards/{id}"), "", "").await;
    let form = page.split(&format!("action=\"/forwards/{id}\"")).nth(1).unwrap();
    let token = form.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let headers =
        format!("Content-Type: application/x-www-form-urlencoded\r\nOrigin: {}\r\n", world.url());
    for (ip, mac) in [("192.168.1.20", "3c:52:82:01:02:20"), ("192.168.1.9", "3c:52:82:01:02:03")] {
        let typed = format!(
            "csrf={token}&protocol=tcp&port=8080&ip={ip}&mac=3c%3A52%3A82%3A01%3A02%3A20&enabled=on"
        );
        let (status, page) = world.ask(&format!("POST /forwards/{id}"), &headers, &typed).await;
        assert_eq!(status, 303, "{page}");
        let target = world.account.spec.lock().unwrap().forwards[0].target;
        assert_eq!(
            (target.ip.to_string(), target.mac.unwrap().to_string()),
            (ip.into(), mac.into())
        );
    }
}

#[tokio::test]
async fn a_scan_is_repeated_until_somebody_ends_it() {
    let world = World::new(true, true);
    let schedule = "/api/v1/scan/schedule";
    let (status, none) = world.ask(&format!("GET {schedule}"), "", "").await;
    assert!(status == 200 && none.ends_with("null"), "{none}");
    let put = format!("PUT {schedule}");
    for (wanted, why) in [
        (r#"{"every_secs":60}"#, "15 minutes"),
        (r#"{"every_secs":3600,"rate":9999}"#, "1 to 1,000"),
        (r#"{"every_secs":3600,"networks":["8.8.8.0/24"]}"#, "confirm that you may"),
        (r#"{"every_secs":3600,"networks":["127.0.0.0/8"]}"#, "no network of devices"),
        (r#"{}"#, "every_secs"),
    ] {
        let (status, refused) = world.ask(&put, JSON, wanted).await;
        assert!(status == 422 && refused.contains(why), "{refused}");
    }
    let wanted = r#"{"every_secs":86400,"ports":[80]}"#;
    let (status, set) = world.ask(&put, JSON, wanted).await;
    assert!(status == 200 && set.contains("\"next_unix\":"), "{set}");
    let (_, page) = world.ask("GET /scan", "", "").await;
    assert!(page.contains("each day by itself") && page.contains("Don't repeat"), "{page}");
    let (_, log) = world.ask("GET /api/v1/log", "", "").await;
    assert!(log.contains("is repeated each day") && log.contains("laptop"), "{log}");
    let (status, page) = world.ask("POST /scan/schedule/end", "", "").await;
    assert_eq!(status, 403, "a form without its token: {page}");
    assert_eq!(world.ask(&format!("DELETE {schedule}"), "", "").await.0, 204);
    let (_, page) = world.ask("GET /scan", "", "").await;
    assert!(!page.contains("Repeated scan"), "{page}");

    let begun_and_repeated = r#"{"every_secs":86400,"networks":["8.8.8.0/24"]}"#;
    let (status, refused) = world.ask("POST /api/v1/scan", JSON, begun_and_repeated).await;
    assert!(status == 422 && refused.contains("confirm that you may"), "{refused}");
    let (_, none) = world.ask(&format!("GET {schedule}"), "", "").await;
    assert!(none.ends_with("null"), "a scan that is refused isn't repeated: {none}");

    let looker = World::new(false, true);
    assert_eq!(looker.ask(&put, JSON, wanted).await.0, 403);
    assert_eq!(looker.ask(&format!("GET {schedule}"), "", "").await.0, 403);
    assert_eq!(looker.ask(&format!("DELETE {schedule}"), "", "").await.0, 403);
}

#[tokio::test]
async fn a_device_with_ipv6_alone_is_shown_and_nothing_leads_to_it() {
    let world = World::new(true, true);
    let (_, list) = world.ask("GET /devices?q=fd00%3A1", "", "").await;
    assert!(list.contains("/devices/fe80::30\"") && list.contains("IPv6 alone"), "{list}");
    assert!(list.contains("192.168.1.66") && list.contains("and IPv6"), "by any address: {list}");
    assert!(!list.contains("192.168.1.9"), "{list}");
    for path in ["/devices/fe80::30", "/devices/fd00:1::30"] {
        let (status, page) = world.ask(&format!("GET {path}"), "", "").await;
        assert!(status == 200 && page.contains("It has IPv6 alone"), "{page}");
        assert!(!page.contains("Make it a virtual device") && !page.contains("Forward one port"));
        assert!(page.contains("Call it to wake") && page.contains("fd00:1::30"), "{page}");
    }
    let (_, csv) = world.ask("GET /devices.csv", "", "").await;
    assert!(csv.contains("\"fd00:1::30 | fe80::30\""), "{csv}");
    let (_, form) = world.ask("GET /forwards", "", "").await;
    assert!(!form.contains("fe80::30"), "it is none to choose: {form}");
}

#[tokio::test]
async fn nobody_else_is_let_in_and_who_does_not_manage_it_sees_nothing_behind_it() {
    let world = World::new(false, true);
    let (status, page) = world.ask("GET /", "", "").await;
    assert!(status == 200 && page.contains("site-7") && !page.contains("192.168"), "{page}");
    let (_, edge) = world.ask("GET /api/v1/edge", "", "").await;
    assert!(edge.contains("\"devices\":0") && edge.contains("\"networks\":[]"), "{edge}");
    for path in [
        "/devices",
        "/devices.csv",
        "/forwards",
        "/log",
        "/api/v1/devices",
        "/api/v1/traffic",
        "/api/v1/open",
    ] {
        let (status, page) = world.ask(&format!("GET {path}"), "", "").await;
        assert!(status == 403 && !page.contains("192.168"), "{path}: {page}");
    }
    let (status, refused) = world.ask("POST /api/v1/forwards", JSON, &forward()).await;
    assert!(status == 403 && refused.contains("nobody who manages"), "{refused}");
    assert!(refused.contains("application/problem+json"), "a program reads it: {refused}");
    assert_eq!(world.ask("POST /api/v1/scan", JSON, "{}").await.0, 403);
    assert_eq!(world.ask("POST /api/v1/devices/3c:52:82:01:02:03/wake", "", "").await.0, 403);
    assert!(world.account.asked_from.lock().unwrap().is_empty());

    world.place.send_modify(|place| place.peers.clear());
    for path in ["/", "/api/v1/edge", "/devices.csv", "/nothing"] {
        let (status, page) = world.ask(&format!("GET {path}"), "", "").await;
        assert!(
            status == 403
                && page.contains("Only devices of this account")
                && !page.contains("192.168"),
            "{page}"
        );
    }
}

#[tokio::test]
async fn another_sites_page_gets_nothing_done() {
    let world = World::new(true, true);
    let port = world.address.port();
    for host in ["evil.example", "localhost", "127.0.0.2", "", "site-7.evil.example"] {
        let request = format!("GET /devices HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let (status, page) = world.raw(&request).await;
        assert!(status == 421 && !page.contains("192.168"), "{host}: {page}");
    }
    let named = format!(
        "GET /devices HTTP/1.1\r\nHost: Site-7.home.warren.internal:{port}\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(world.raw(&named).await.0, 200);

    for from in
        ["Origin: http://evil.example\r\n", "Origin: null\r\n", "Sec-Fetch-Site: same-site\r\n"]
    {
        let headers = format!("{JSON}{from}");
        assert_eq!(world.ask("POST /api/v1/forwards", &headers, &forward()).await.0, 403, "{from}");
        assert_eq!(world.ask("DELETE /api/v1/scan", from, "").await.0, 403);
        let form = "Content-Type: application/x-www-form-urlencoded\r\n";
        let (status, _) = world.ask("POST /scan", &format!("{form}{from}"), "networks=").await;
        assert_eq!(status, 403, "{from}");
    }
    let text = "Content-Type: text/plain\r\n";
    assert_eq!(world.ask("POST /api/v1/forwards", text, &forward()).await.0, 422, "no plain form");
    let own = format!("Origin: {}\r\n", world.url());
    let (status, page) = world.ask("POST /scan", &own, "networks=").await;
    assert!(status == 403 && page.contains("out of date"), "a form without its token: {page}");
    assert!(world.account.asked_from.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_the_lan_says_is_text_and_answers_are_kept_to_themselves() {
    let world = World::new(true, true);
    for path in ["/devices", "/devices/192.168.1.66", "/scan", "/forwards"] {
        let (status, page) = world.ask(&format!("GET {path}"), "", "").await;
        assert_eq!(status, 200, "{path}");
        assert!(!page.contains(HOSTILE) && !page.contains("<script>window"), "{path}");
        for header in ["content-security-policy: default-src 'none'", "x-frame-options: DENY"] {
            assert!(page.contains(header), "{path}: {page}");
        }
        assert!(!page.to_lowercase().contains("access-control-allow"), "{path}");
    }
}

#[tokio::test]
async fn with_the_broker_away_what_is_open_is_shown_and_nothing_is_offered_that_needs_it() {
    let world = World::new(true, true);
    world.ask("POST /api/v1/forwards", JSON, &forward()).await;
    world.place.send_modify(|place| place.is_connected = false);
    let (_, page) = world.ask("GET /forwards", "", "").await;
    assert!(page.contains("The broker is out of reach") && page.contains("leads to port 80"));
    assert!(!page.contains("New port forward") && page.contains("once the broker is back"));
    let (_, page) = world.ask("GET /scan", "", "").await;
    assert!(page.contains("New scan"), "what doesn't need it goes on");
}
