//! JSON Merge Patch (RFC 7396): how a document is changed member by member.

use serde_json::{Value, json};

/// Changes a document as a patch says; `null` removes a member.
pub(super) fn apply(document: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *document = patch.clone();
        return;
    };
    if !document.is_object() {
        *document = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            if let Some(members) = document.as_object_mut() {
                members.remove(name);
            }
        } else {
            apply(&mut document[name], value);
        }
    }
}

/// Empties a subscription's target, or the target's credential, where a patch says that it is to be of another kind: what
/// one kind has, the other has not.
pub(super) fn make_way(document: &mut Value, patch: &Value) {
    for place in ["/target", "/target/auth"] {
        let kind = |of: &Value| of.pointer(place)?.get("kind")?.as_str().map(str::to_owned);
        let (before, after) = (kind(document), kind(patch));
        if after.is_some()
            && before != after
            && let Some(stands) = document.pointer_mut(place)
        {
            *stands = json!({});
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_another_kind_keeps_nothing_of_the_one_before() {
        let hook = json!({
            "name": "n", "target": { "kind": "webhook", "url": "u", "auth": { "kind": "bearer", "token": "t" } },
        });
        let basic = json!({ "kind": "basic", "username": "a", "password": "b" });
        for (target, wanted) in [
            (
                json!({ "kind": "topic", "topic": "c" }),
                json!({ "kind": "topic", "topic": "c" }),
            ),
            (
                json!({ "auth": basic }),
                json!({ "kind": "webhook", "url": "u", "auth": basic }),
            ),
            (
                json!({ "auth": { "kind": "bearer" } }),
                hook["target"].clone(),
            ),
            (
                json!({ "auth": null }),
                json!({ "kind": "webhook", "url": "u" }),
            ),
        ] {
            let (mut document, patch) = (hook.clone(), json!({ "target": target }));
            make_way(&mut document, &patch);
            apply(&mut document, &patch);
            assert_eq!(document, json!({ "name": "n", "target": wanted }));
        }
    }

    #[test]
    fn a_document_is_patched_as_the_examples_of_the_rfc_are() {
        let examples = [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (
                json!({"a":"b","b":"c"}),
                json!({"a":null}),
                json!({"b":"c"}),
            ),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (
                json!({"a":{"b":"c"}}),
                json!({"a":{"b":"d","c":null}}),
                json!({"a":{"b":"d"}}),
            ),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"b"}), json!(["c"]), json!(["c"])),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (
                json!({}),
                json!({"a":{"bb":{"ccc":null}}}),
                json!({"a":{"bb":{}}}),
            ),
        ];
        for (mut document, patch, wanted) in examples {
            apply(&mut document, &patch);
            assert_eq!(document, wanted, "patched with {patch}");
        }
    }
}
