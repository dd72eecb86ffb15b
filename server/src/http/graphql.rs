//! `POST /graphql`: returns the owner of a token, if this server issues the tokens.
//!
//! It answers only the query with which Watson Work's clients find out their own id: `{ me { id } }`.

use serde::Deserialize;
use serde_json::json;
use warp::{
    Filter,
    filters::BoxedFilter,
    http::{Method, header},
    reply::Response,
};
use wwproxy_protocol::Secret;

use super::{
    Context, MAX_REQUEST,
    error::ApiError,
    request::{self, Request, answer, read_object, request},
    with,
};

pub(super) fn route(context: &Context) -> BoxedFilter<(Response,)> {
    warp::path!("graphql")
        .and(with(context))
        .and(request())
        .then(|context, request| async move { answer(graphql(&context, request).await) })
        .boxed()
}

async fn graphql(context: &Context, request: Request) -> Result<Response, ApiError> {
    if !context.proxy.issues_tokens() {
        return Err(request.refuse(ApiError::not_found()).await);
    }
    if request.method != Method::POST {
        return Err(request.refuse_method(&[Method::POST]).await);
    }
    let owner = match token(&request) {
        Ok(token) => context.proxy.token_owner(&token).await.map_err(ApiError::from),
        Err(missing) => Err(missing),
    };
    let owner = match owner {
        Ok(owner) => owner,
        Err(refusal) => return Err(request.refuse(refusal).await),
    };
    request.connection.authorise()?;
    let is_json = is_json(&request);
    let body = request.body.collect(MAX_REQUEST, &context.budgets.requests, owner.parse().ok()).await?.bytes;
    let answer = if asks_for_me(&query(is_json, &body)?) {
        json!({"data": {"me": {"id": owner}}})
    } else {
        json!({"data": null, "errors": [{"message": "This proxy answers { me { id } } only."}]})
    };
    Ok(request::json(answer.to_string()))
}

/// Returns the token from `Authorization: Bearer` or from the header `jwt`.
fn token(request: &Request) -> Result<Secret, ApiError> {
    let jwt = request.headers.get("jwt").and_then(|value| value.to_str().ok());
    match jwt {
        Some(jwt) if !request.headers.contains_key(header::AUTHORIZATION) => Ok(Secret::new(jwt.trim())),
        _ => request.bearer_token(),
    }
}

fn is_json(request: &Request) -> bool {
    let kind = request.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("application/json"))
}

fn query(is_json: bool, body: &[u8]) -> Result<String, ApiError> {
    #[derive(Deserialize)]
    struct Body {
        query: String,
    }
    if is_json {
        let body: Body = read_object(body).ok_or_else(|| {
            ApiError::bad_request("The body must be a JSON object: {\"query\":\"{ me { id } }\"}.")
        })?;
        Ok(body.query)
    } else {
        let text = std::str::from_utf8(body);
        text.map(str::to_owned)
            .map_err(|_| ApiError::bad_request("The body must be a GraphQL query in UTF-8."))
    }
}

/// Whether this is the query `{ me { id } }`, with or without a name, in any spacing.
fn asks_for_me(query: &str) -> bool {
    let spaced = query.replace('{', " { ").replace('}', " } ").replace(',', " ");
    let mut words = spaced.split_whitespace().peekable();
    if words.next_if_eq(&"query").is_some() {
        words.next_if(|word| *word != "{");
    }
    words.eq(["{", "me", "{", "id", "}", "}"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_query_in_any_spacing() {
        for yes in
            ["{ me { id } }", "{me{id}}", "query { me { id } }", "query who {\n  me {\n    id\n  }\n}\n"]
        {
            assert!(asks_for_me(yes), "{yes}");
        }
        for no in [
            "",
            "{ me { id, email } }",
            "{ me }",
            "mutation { me { id } }",
            "{ spaces { id } }",
            "query query query",
        ] {
            assert!(!asks_for_me(no), "{no}");
        }
    }
}
