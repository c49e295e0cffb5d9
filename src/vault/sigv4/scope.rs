//! For where to sign, when the client did not: what the name of the host says.

/// Region and service of an AWS endpoint, as they are called in signatures; `None` when its name does not say.
pub(super) fn of_host(host: &str) -> Option<(&str, &str)> {
    let name = [".amazonaws.com", ".amazonaws.com.cn", ".api.aws"].iter().find_map(|end| host.strip_suffix(end))?;
    let mut labels = name.rsplit('.').filter(|&label| label != "dualstack");
    let last = labels.next()?;
    let (region, service) = if is_region(last) { (last, labels.next()?) } else { ("us-east-1", last) };
    let service = match service {
        // `s3-fips` and the like.
        other if other == "s3" || other.starts_with("s3-") => "s3",
        other if other == "bedrock" || other.starts_with("bedrock-") => "bedrock",
        "email" => "ses",
        other => other,
    };
    // Without a region there are buckets, and services that have no regions.
    let global = ["s3", "sts", "iam", "route53", "cloudfront", "organizations"];
    (is_region(last) || global.contains(&service)).then_some((region, service))
}

/// `us-east-1`, `us-gov-west-1`.
fn is_region(label: &str) -> bool {
    let mut parts = label.split('-');
    let area = parts.next().is_some_and(|area| area.len() == 2 && area.bytes().all(|byte| byte.is_ascii_lowercase()));
    let number = parts.next_back().is_some_and(|number| number.len() <= 2 && number.parse::<u8>().is_ok());
    area && number && parts.clone().count() > 0 && parts.all(|part| part.bytes().all(|byte| byte.is_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_say_where_they_are() {
        for (host, expected) in [
            ("s3.eu-central-1.amazonaws.com", Some(("eu-central-1", "s3"))),
            ("my.bucket.s3.us-west-2.amazonaws.com", Some(("us-west-2", "s3"))),
            ("bucket.s3.dualstack.us-west-2.amazonaws.com", Some(("us-west-2", "s3"))),
            ("bucket.s3-fips.us-gov-west-1.amazonaws.com", Some(("us-gov-west-1", "s3"))),
            ("bucket.s3.amazonaws.com", Some(("us-east-1", "s3"))),
            ("s3.cn-north-1.amazonaws.com.cn", Some(("cn-north-1", "s3"))),
            ("sts.amazonaws.com", Some(("us-east-1", "sts"))),
            ("dynamodb.us-east-1.amazonaws.com", Some(("us-east-1", "dynamodb"))),
            ("bedrock-runtime.us-east-1.amazonaws.com", Some(("us-east-1", "bedrock"))),
            ("id.execute-api.ap-southeast-2.amazonaws.com", Some(("ap-southeast-2", "execute-api"))),
            ("lambda.us-east-1.api.aws", Some(("us-east-1", "lambda"))),
            ("dynamodb.amazonaws.com", None),
            ("us-east-1.amazonaws.com", None),
            ("amazonaws.com", None),
            ("s3.example.com", None),
            ("s3.us-east-1.amazonaws.com.evil.example", None),
        ] {
            assert_eq!(of_host(host), expected, "{host}");
        }
    }
}
