//! What each plan has room for, held exactly by two replicas at once (source D, "Plan tiers").

use std::process::Command;

use serde_json::{Value, json};

use crate::custom_events::{REGISTRATIONS, favorited, named, on_plan, patch};
use crate::emits::{HEALTH, emit, generic};
use crate::harness::{Answer, Server, printed};
use crate::receiver::eventually;
use crate::replicas::within_the_promise;
use crate::servers::Servers;
use crate::workspaces::admin;

/// Two replicas on one PostgreSQL.
struct Rig {
    replicas: [Server; 2],
    servers: Servers,
}

impl Rig {
    fn start() -> Self {
        let servers = Servers::start(&["postgres"]);
        let replicas = [(); 2].map(|()| Server::start_with(&servers.configuration()));
        Self { replicas, servers }
    }

    /// Puts a tenant on a plan; a token of it at each replica.
    fn on_plan(&self, tenant: &str, plan: &str) -> [String; 2] {
        let [one, two] = &self.replicas;
        let token = on_plan(one, tenant, plan);
        [token, admin(two, tenant)]
    }

    /// What the database answers.
    fn sql(&self, query: &str) -> String {
        let setting = |name| self.servers.setting(name).expect("it was started");
        let psql = format!("{}/psql", setting("TIDINGS_POSTGRES_BIN"));
        let run = Command::new(psql)
            .args(["-XAtq", setting("TIDINGS_TEST_POSTGRES"), "-c", query])
            .output()
            .expect("psql runs");
        printed(run)
    }

    /// As if a tenant had emitted so often in this month.
    fn has_emitted(&self, tenant: &str, emits: u64) {
        let month = self.sql("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM')");
        let crc = seal(tenant, &month, emits);
        self.sql(&format!(
            "INSERT INTO custom_event_usage (tenant, month, emits, crc) VALUES ('{tenant}', '{month}', {emits}, {crc})"
        ));
    }

    /// Does the same at both replicas, so often at once; the statuses.
    fn at_once(&self, times: usize, call: impl Fn(usize, &Server) -> Answer + Sync) -> Vec<Answer> {
        std::thread::scope(|scope| {
            let calls = (0..times).map(|number| {
                let call = &call;
                let replica = &self.replicas[number % 2];
                scope.spawn(move || {
                    eventually("it is decided", || {
                        let answer = call(number, replica);
                        // Of so many at once some come too late for the store again and again.
                        (answer.status != 503).then_some(answer)
                    })
                })
            });
            let calls: Vec<_> = calls.collect();
            calls
                .into_iter()
                .map(|it| it.join().expect("an answer"))
                .collect()
        })
    }
}

/// The checksum of a month's row.
fn seal(tenant: &str, month: &str, emits: u64) -> u32 {
    let mut crc = flate2::Crc::new();
    let number = emits.to_le_bytes();
    let fields = ["custom_event_usage", tenant, month].map(str::as_bytes);
    for field in fields.into_iter().chain([&number[..]]) {
        crc.update(&(field.len() as u64).to_le_bytes());
        crc.update(field);
    }
    crc.sum()
}

fn count(answers: &[Answer], status: u16) -> usize {
    answers.iter().filter(|it| it.status == status).count()
}

fn used(server: &Server, token: &str) -> Value {
    server.get(HEALTH, token).expect(200).json()["emits"].clone()
}

#[test]
fn each_plan_has_its_emits_of_a_month_and_a_damaged_count_is_made_anew() {
    let rig = Rig::start();
    for (plan, limit) in [("BASIC", 10_000), ("PRO", 100_000)] {
        let tenant = format!("org-{}", plan.to_lowercase());
        let tokens = rig.on_plan(&tenant, plan);
        rig.has_emitted(&tenant, limit - 3);
        let answers = rig.at_once(12, |number, server| {
            emit(server, &tokens[number % 2], &generic())
        });
        assert_eq!(
            (count(&answers, 202), count(&answers, 402)),
            (3, 9),
            "{plan}"
        );
        for refused in answers.iter().filter(|answer| answer.status == 402) {
            let problem = refused.problem(402, "monthly_emit_quota_exceeded");
            assert_eq!(problem["limit"], limit);
        }
        let explained = rig.replicas[0].post("/v1/events/explain", &tokens[0], &generic());
        let steps = explained.expect(200).json()["steps"].clone();
        let last = steps.as_array().and_then(|steps| steps.last());
        assert_eq!(last.expect("a step")["step"], "quota", "{steps}");
        assert!(!steps.to_string().contains("\"append\""), "{steps}");
        let all = json!({ "thisMonth": limit, "monthlyLimit": limit });
        assert_eq!(used(&rig.replicas[1], &tokens[1]), all);
    }
    let tokens = rig.on_plan("org-enterprise", "ENTERPRISE");
    rig.has_emitted("org-enterprise", 5_000_000);
    let answers = rig.at_once(4, |number, server| {
        emit(server, &tokens[number % 2], &generic())
    });
    assert_eq!(count(&answers, 202), 4);
    let all = json!({ "thisMonth": 5_000_004, "monthlyLimit": null });
    assert_eq!(used(&rig.replicas[0], &tokens[0]), all);

    // Nobody could tell how many there were, were it not for the emits themselves.
    rig.sql("UPDATE custom_event_usage SET emits = 77 WHERE tenant = 'org-basic'");
    let tokens = rig.on_plan("org-basic", "BASIC");
    let now = |emits: u64| json!({ "thisMonth": emits, "monthlyLimit": 10_000 });
    assert_eq!(used(&rig.replicas[0], &tokens[0]), now(3));
    emit(&rig.replicas[1], &tokens[1], &generic()).expect(202);
    assert_eq!(used(&rig.replicas[0], &tokens[0]), now(4));
}

#[test]
fn each_plan_has_its_registrations_whichever_replica_is_asked() {
    let rig = Rig::start();
    for (plan, room) in [("BASIC", 5), ("PRO", 25)] {
        let tenant = format!("org-{}", plan.to_lowercase());
        let tokens = rig.on_plan(&tenant, plan);
        let answers = rig.at_once(room + 9, |number, server| {
            let body = named(&format!("event-{number}"));
            server.post(REGISTRATIONS, &tokens[number % 2], &body)
        });
        assert_eq!(
            (count(&answers, 201), count(&answers, 402)),
            (room, 9),
            "{plan}"
        );
        for refused in answers.iter().filter(|answer| answer.status == 402) {
            refused.problem(402, "registration_quota_exceeded");
        }
    }
    let tokens = rig.on_plan("org-enterprise", "ENTERPRISE");
    let answers = rig.at_once(30, |number, server| {
        let body = named(&format!("event-{number}"));
        server.post(REGISTRATIONS, &tokens[number % 2], &body)
    });
    assert_eq!(count(&answers, 201), 30);
}

#[test]
fn what_is_archived_at_one_replica_is_out_of_force_at_the_other_within_a_second() {
    let rig = Rig::start();
    let [one, two] = &rig.replicas;
    let [token, other] = rig.on_plan("org_x", "PRO");
    one.post(REGISTRATIONS, &token, &favorited("1.0.0"))
        .expect(201);
    let payload = json!({ "propertyId": "p", "subjectId": "s" });
    let body = json!({ "name": "lettings.property.favorited", "payload": payload });
    // The other replica has it at hand by then.
    within_the_promise("the registration", || {
        emit(two, &other, &body).status == 202
    });
    let archived = json!({ "status": "archived" });
    patch(one, &token, "lettings/property.favorited/1.0.0", &archived).expect(200);
    within_the_promise("the end", || {
        let answer = emit(two, &other, &body);
        if answer.status == 409 {
            answer.problem(409, "event_not_published");
            return true;
        }
        answer.expect(202);
        false
    });
}
