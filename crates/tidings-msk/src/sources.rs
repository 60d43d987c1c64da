//! How credentials are asked for: files and the environment of the process, and HTTP through the one door out.

use std::time::Duration;

use bytes::Bytes;
use reqsign_core::{Context, Error, FileRead, HttpSend, OsEnv};
use tidings_egress::{AllowedTarget, Client, EgressError, Guard, Limits, Outgoing, Target};

/// Where AWS hands credentials to what runs on it: instances (IMDS), tasks of ECS, pods of EKS.
const METADATA: [&str; 5] = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "fd00:ec2::254",
    "fd00:ec2::23",
];

const LIMITS: Limits = Limits {
    connect_timeout: Duration::from_secs(2),
    total_timeout: Duration::from_secs(5),
    body_bytes: 64 * 1024,
};

pub(crate) fn context(region: &str) -> Result<Context, EgressError> {
    // Where nothing but AWS is reached, STS is an endpoint inside the network.
    let exchanges = [
        "sts.amazonaws.com".to_owned(),
        format!("sts.{region}.amazonaws.com"),
    ];
    let metadata = METADATA.iter().map(|text| text.parse());
    let metadata: Result<Vec<AllowedTarget>, _> = metadata.collect();
    let mut allowed = metadata.expect("each is an address");
    allowed.extend(exchanges.map(AllowedTarget::Host));
    let guard = Guard::new(allowed);
    Ok(Context::new()
        .with_env(OsEnv)
        .with_file_read(Files)
        .with_http_send(Out(Client::new(guard, LIMITS)?)))
}

#[derive(Debug)]
struct Files;

impl FileRead for Files {
    async fn file_read(&self, path: &str) -> Result<Vec<u8>, Error> {
        let read = tokio::fs::read(path).await;
        read.map_err(|error| Error::config_invalid(format!("{path} cannot be read: {error}")))
    }
}

#[derive(Debug)]
struct Out(Client);

impl HttpSend for Out {
    async fn http_send(
        &self,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, Error> {
        let (head, body) = request.into_parts();
        let invalid = |why: &dyn std::fmt::Display| Error::request_invalid(why.to_string());
        let target: Target = head.uri.to_string().parse().map_err(|why| invalid(&why))?;
        let headers = head.headers.iter().map(|(name, value)| {
            let value = value.to_str().map_err(|why| invalid(&why))?;
            Ok((name.as_str().to_owned(), value.to_owned()))
        });
        let outgoing = Outgoing {
            target: &target,
            identity: None,
            headers: headers.collect::<Result<_, Error>>()?,
            body,
            timeout: LIMITS.total_timeout,
        };
        let answer = self.0.send(head.method, outgoing).await;
        let answer = answer.map_err(|error| {
            let host = target.host();
            Error::unexpected(format!("{host}: {error}"))
        })?;
        let mut response = http::Response::builder().status(answer.status);
        for (name, value) in &answer.headers {
            response = response.header(name, value);
        }
        response
            .body(Bytes::from(answer.body))
            .map_err(|why| Error::unexpected(why.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use reqsign_aws_core::{DefaultCredentialProvider, IMDSv2CredentialProvider};
    use reqsign_core::{ProvideCredential as _, StaticEnv};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Hands out credentials as a container's agent does, and as an instance does.
    async fn agent() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4_096];
                let read = stream.read(&mut request).await.expect("a request");
                let request = String::from_utf8_lossy(&request[..read]).into_owned();
                let keys = r#""AccessKeyId":"AKIDEXAMPLE","SecretAccessKey":"secret","Token":"session","Expiration":"2099-01-01T00:00:00Z""#;
                let body = if request.starts_with("PUT /latest/api/token") {
                    "token-of-the-instance".to_owned()
                } else if request.starts_with("GET /latest/meta-data/iam/security-credentials/ ") {
                    "role".to_owned()
                } else {
                    format!(r#"{{"Code":"Success",{keys}}}"#)
                };
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.expect("it reads");
            }
        });
        format!("http://{address}")
    }

    fn around(context: Context, allowed: &[&str], variables: &[(&str, String)]) -> Context {
        let allowed = allowed.iter().map(|text| text.parse().expect("an address"));
        let client = Client::new(Guard::new(allowed.collect()), LIMITS).expect("a client");
        let envs = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        let envs: HashMap<String, String> = envs.collect();
        let env = StaticEnv {
            home_dir: None,
            envs,
        };
        context.with_env(env).with_http_send(Out(client))
    }

    #[tokio::test]
    async fn containers_and_instances_hand_out_credentials_through_the_one_door() {
        let agent = agent().await;
        let context = context("eu-central-1").expect("a context");
        let full = (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            format!("{agent}/keys"),
        );
        let open = around(context.clone(), &["127.0.0.1"], std::slice::from_ref(&full));
        let chain = DefaultCredentialProvider::builder().no_sso().no_process();
        let found = chain.build().provide_credential(&open).await;
        let found = found.expect("it answers").expect("credentials");
        assert_eq!(found.access_key_id, "AKIDEXAMPLE");
        assert_eq!(found.session_token.as_deref(), Some("session"));

        let endpoint = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", agent);
        let instance = around(context.clone(), &["127.0.0.1"], &[endpoint]);
        let found = IMDSv2CredentialProvider::new()
            .provide_credential(&instance)
            .await;
        let found = found.expect("it answers").expect("credentials");
        assert_eq!(found.access_key_id, "AKIDEXAMPLE");

        // What is not AWS's is not asked, whatever a variable says.
        let closed = around(context, &METADATA, &[full]);
        let refused = reqsign_aws_core::ECSCredentialProvider::new()
            .provide_credential(&closed)
            .await;
        let refused = crate::told(&refused.expect_err("the guard refuses"));
        assert!(refused.contains("loopback"), "{refused}");
    }
}
